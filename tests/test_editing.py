"""The editing methods that the benchmark compares do what their papers say, on exact data."""

import torch

from sampling_kit.benchmarks.editing import METHODS, euler, flow_edit, rms, world


def test_only_exact_inversion_and_flow_edit_bring_a_picture_back():
    made = world(16)
    x, source = made.pictures[0], made.denoiser(0)
    error = {name: rms(edit(x, source, source) - x) for name, (_, edit) in METHODS.items()}
    exact = {name for name, gap in error.items() if gap < 1e-12}
    assert exact == {"nothing", "O-BELM, exact inversion", "FlowEdit", "FlowEdit from t = 0.7"}
    assert error["Euler inversion"] < error["RF-Inversion, γ 0.5, η 0.9"] < error["RF-Inversion, γ 0.5, η 0"]  # fmt: skip


def test_the_controllers_ends_are_the_noise_and_the_picture():
    """γ = 1 goes to the fixed noise whatever the model says, η = 1 on the whole way back to the picture."""
    made = world(4)
    x, source = made.pictures[0], made.denoiser(0)
    other = lambda y, t: source(y, t) + 5  # noqa: E731
    assert torch.allclose(euler(x, source, source, 1.0), euler(x, other, source, 1.0))
    assert not torch.allclose(euler(x, source, source, 0.9), euler(x, other, source, 0.9))


def test_flow_edit_follows_the_difference_of_two_velocities():
    """Predictions that differ by a constant move a picture by that constant."""
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)).double()
    source = lambda y, t: 0 * y  # noqa: E731
    moved = flow_edit(x, source, lambda y, t: source(y, t) + 0.25)
    change = moved - x
    assert torch.allclose(change, change[:1, :1].expand_as(change)) and float(change[0, 0]) > 0.25
