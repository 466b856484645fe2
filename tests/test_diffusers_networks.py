"""diffusers' networks in folders as denoisers, against the networks called as their pipelines do."""

import math
from dataclasses import replace
from types import SimpleNamespace

import diffusers_cases as cases
import pytest
import torch
from diffusers_cases import called, error, flow_x0, latent, table_x0
from diffusers_folders import TINY, conditioning, save, scheduler

from sampling_kit.schedulers.denoiser import diffusers as kit
from sampling_kit.schedulers.denoiser.diffusers import training
from sampling_kit.schedulers.denoiser.diffusers.families import FAMILIES, cogvideox
from sampling_kit.schedulers.denoiser.many import many
from sampling_kit.schedulers.path import VE, VP, Flow
from sampling_kit.schedulers.prediction import Prediction

diffusers = pytest.importorskip("diffusers")
folders, ours, theirs = cases.folders, cases.ours, cases.theirs
no_gradients = cases.no_gradients
every = pytest.mark.parametrize("name", TINY)


# ---------------------------------------------------------------------------------------- D = theirs

EDMS = ["edm", "edm-v", "svd-like"]
READ = {n: training.SCHEDULERS[TINY[n].scheduler[0]].read for n in TINY}
FLOWS = [n for n in TINY if READ[n] is training.flow or TINY[n].scheduler[1].get("use_flow_sigmas")]
TABLE = [n for n in TINY if READ[n] is training.table and n not in FLOWS + EDMS]


def test_every_tiny_model_is_compared():
    assert sorted([*TABLE, *FLOWS, *EDMS, "ncsn"]) == sorted(TINY)
    assert {t.kind for t in TINY.values()} == set(FAMILIES)


@pytest.mark.some(6)
@pytest.mark.parametrize("name", TABLE)
def test_x0_equals_ddim_s_on_tables(name, ours, theirs):
    x, cond, mine = latent(name), conditioning(name), ours(name)
    assert mine.path == VP()
    for t in (999, 998, 500, 1, 0):
        p = VP().at(float(mine.noise_schedule.kappa(t)))
        expected = table_x0(name, called(name, theirs(name), x, torch.full((2,), t), cond), t, x)
        got = mine(x, p.sigma, cond)
        assert got.dtype == torch.float32
        assert error(got, expected, x) < 1e-5, t
        if p.alpha:  # in ComfyUI's coordinates x0 + κ·ε
            host = mine.using(path=VE())(x / p.alpha, p.kappa, cond)
            assert error(host, expected, x) < 1e-5, t


@pytest.mark.parametrize("name", FLOWS)
def test_x0_equals_the_scheduler_s_on_flow(name, ours, theirs):
    x, cond, mine = latent(name), conditioning(name), ours(name)
    assert mine.path == Flow() == mine.path.host
    for sigma in (1.0, 0.98, 0.5, 0.02, 1e-3):
        out = called(name, theirs(name), x, torch.full((2,), 1000 * sigma), cond)
        assert error(mine(x, sigma, cond), flow_x0(name, out, sigma, x), x) < 1e-5, sigma


@pytest.mark.parametrize("name", EDMS)
def test_x0_equals_euler_s_on_edm(name, ours, theirs):
    cond, mine, s = conditioning(name), ours(name), scheduler(name)
    assert mine.path == VE()
    s.set_timesteps(9)
    for t, sigma in zip(s.timesteps, s.sigmas.tolist(), strict=False):
        x = latent(name, size=math.hypot(sigma, 0.5))
        s._step_index = None
        out = called(name, theirs(name), s.scale_model_input(x, t), t, cond)
        expected = s.step(out, t, x).pred_original_sample
        assert error(mine(x, sigma, cond), expected, x) < 1e-5, sigma


def test_x0_of_a_score_network_is_tweedie_s(ours, theirs):
    mine, s = ours("ncsn"), scheduler("ncsn")
    s.set_timesteps(9)
    s.set_sigmas(9)
    for sigma in s.sigmas.tolist():
        x = latent("ncsn", size=sigma)
        expected = x + sigma**2 * theirs("ncsn")(x, torch.full((2,), sigma)).sample
        assert error(mine(x, sigma), expected, x) < 1e-5, sigma


@pytest.mark.some(9)
@every
def test_pictures_may_have_their_own_sigma_and_conditions_share_a_call(name, ours):
    x, cond, mine = latent(name), conditioning(name), ours(name)
    sigmas = [0.9, 0.3]
    both = mine(x, torch.tensor(sigmas, dtype=torch.float64), cond)
    for i, sigma in enumerate(sigmas):
        alone = mine(x[i : i + 1], sigma, {k: v[i : i + 1] for k, v in cond.items()})
        assert torch.allclose(both[i : i + 1], alone, rtol=1e-4, atol=1e-4)
    other = conditioning(name, seed=5)
    calls = []
    hook = mine.network.register_forward_pre_hook(lambda *a: calls.append(1))
    pair = many(mine, x, 0.4, [cond, {k: v[:1] for k, v in other.items()}])
    hook.remove()
    assert len(calls) == 1
    assert torch.allclose(pair[0], mine(x, 0.4, cond), rtol=1e-4, atol=1e-4)
    first = {k: v[:1] for k, v in other.items()}
    assert torch.allclose(pair[1], mine(x, 0.4, first), rtol=1e-4, atol=1e-4)
    if "text" in cond:
        assert not torch.allclose(pair[0], pair[1], atol=1e-3)


@pytest.mark.parametrize(
    ("other", "calls"),
    [
        (lambda cond: dict(cond), [4]),
        (lambda cond: {k: v[:1] for k, v in cond.items()}, [4]),
        (lambda cond: {"text": cond["text"]}, [2, 2]),
        (lambda cond: {k: v[:, :3] for k, v in cond.items()}, [2, 2]),
        (lambda cond: cond | {"text": cond["text"].double()}, [2, 2]),
    ],
    ids=["alike", "one row", "other names", "other sizes", "other dtypes"],
)
def test_conditions_share_a_call_where_names_sizes_and_dtypes_agree(ours, other, calls):
    mine, x, cond = ours("pixart-alpha"), latent("pixart-alpha"), conditioning("pixart-alpha")
    second, seen = other(conditioning("pixart-alpha", seed=5)), []
    hook = mine.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    pair = many(mine, x, 0.5, [cond, second])
    hook.remove()
    assert seen == calls
    for d, condition in zip(pair, (cond, second), strict=True):
        assert torch.allclose(d, mine(x, 0.5, condition), rtol=1e-4, atol=1e-4)


def test_wrong_rows_are_named(ours):
    mine, x, cond = ours("pixart-alpha"), latent("pixart-alpha"), conditioning("pixart-alpha")
    with pytest.raises(ValueError, match="σ holds 3 values for a batch of 2"):
        mine(x, torch.tensor([0.1, 0.2, 0.3]), cond)
    three = {k: v[:1].expand(3, *v.shape[1:]) for k, v in cond.items()}
    with pytest.raises(ValueError, match="has 3 rows for a batch of 2"):
        many(mine, x, 0.5, [three, three])


@pytest.mark.some(9)
@every
def test_the_network_runs_in_bfloat16_with_time_and_state_in_float32(name, folders, ours):
    mine = kit.load(kit.read_folder(folders(name)), torch.bfloat16)
    seen = []
    inner = {
        "FluxTransformer2DModel": "time_text_embed.time_proj",
        "DiTTransformer2DModel": "",
    }.get(mine.kind)
    module = mine.network.get_submodule(inner) if inner else mine.network
    names = ("t", "timestep") if inner is None else ()
    hook = module.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(next((kwargs[k] for k in names if k in kwargs), args[0] if args else None)),
        with_kwargs=True,
    )  # fmt: skip
    x, cond = latent(name), conditioning(name)
    if name == "flux":
        cond["guidance"] = torch.tensor([4.0])  # ·1000 is exact in bfloat16
    d = mine(x, 0.7013, cond)
    hook.remove()
    assert d.dtype == torch.float32
    assert mine.dtype == torch.bfloat16
    if seen[0] is not None:
        assert seen[0].dtype == torch.float32
    assert error(d, ours(name)(x, 0.7013, cond), x) < 0.05


def test_flux_rounds_its_time_to_bfloat16_unless_it_is_handed_past_it(folders):
    """What a plain call of diffusers' FluxTransformer2DModel does: 0.7013·1000 becomes 700 or 704."""
    mine, seen = kit.load(kit.read_folder(folders("flux")), torch.bfloat16), []
    clock = mine.network.time_text_embed.time_proj
    hook = clock.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    mine(latent("flux"), 0.7013, conditioning("flux"))
    cond = {k: v.bfloat16() for k, v in conditioning("flux").items()}
    called("flux", mine.network, latent("flux").bfloat16(), torch.full((2,), 701.3), cond)
    hook.remove()
    assert seen[0].tolist() == pytest.approx([701.3] * 2, abs=1e-4)
    assert seen[2].float().tolist() in ([700.0] * 2, [704.0] * 2)  # seen[1] is the guidance


def test_a_wrong_label_is_put_right_without_loading_again(ours):
    """The network of sd2-v read as an eps network, and back."""
    mine, x, cond = ours("sd2-v"), latent("sd2-v"), conditioning("sd2-v")
    other = mine.using(replace(mine.trained, prediction=Prediction("eps")))
    assert other.network is mine.network
    assert (other.prediction, mine.prediction) == ("eps", "v")
    p = VP().on(0.6)
    v = mine.raw(x, torch.tensor([float(mine.noise_schedule.time(p.kappa))]).expand(2), cond)
    assert torch.allclose(mine(x, 0.6, cond), p.alpha * x - 0.6 * v, atol=1e-6)
    assert torch.allclose(other(x, 0.6, cond), (x - 0.6 * v) / p.alpha, atol=1e-5)
    with pytest.raises(ValueError, match="says nothing about x0"):
        other(x, 1.0, cond)


@pytest.mark.some(9)
@every
def test_facts_a_host_asks_for(name, ours):
    mine, tiny = ours(name), TINY[name]
    assert (mine.channels, mine.dims) == (tiny.shape[0], len(tiny.shape) - 1)
    assert set(mine.needs) <= {k for k, _ in tiny.cond} <= {*mine.needs, *mine.may}
    assert mine.dtype == torch.float32
    assert mine.dtype_reason == "the weights are stored in float32"
    with pytest.raises(ValueError, match="make the empty latent"):
        mine(torch.zeros(1, tiny.shape[0] + 1, *tiny.shape[1:]), 0.5)
    with pytest.raises(ValueError, match="make the empty latent"):
        mine(torch.zeros(1, *tiny.shape[:-1]), 0.5)
    if mine.needs:
        with pytest.raises(ValueError, match="needs the conditioning"):
            mine(latent(name), 0.5)
        with pytest.raises(ValueError, match="give 1 or 2"):
            mine(latent(name), 0.5, conditioning(name, batch=3))


def test_sizes_must_fit_the_patches(ours):
    for name, shape in [("flux", (4, 7, 8)), ("wan", (4, 3, 4, 5)), ("cogvideox-1.5", (4, 3, 8, 8)), ("ddpm", (3, 7, 8))]:  # fmt: skip
        with pytest.raises(ValueError, match="multiples of"):
            ours(name)(torch.zeros(1, *shape), 0.5, conditioning(name, 1))


@pytest.mark.parametrize("grid", [(3, 2, 7), (3, 7, 2), (2, 5, 5), (1, 3, 4), (4, 6, 4)])
@pytest.mark.parametrize("patch_t", [None, 2])
def test_the_rotary_embedding_is_the_cogvideox_pipeline_s(grid, patch_t):
    c = dict(patch_size=2, patch_size_t=patch_t, sample_width=16, sample_height=14, attention_head_dim=16)  # fmt: skip
    frames, rows, columns = grid
    me = SimpleNamespace(vae_scale_factor_spatial=1, transformer=SimpleNamespace(config=SimpleNamespace(**c)))  # fmt: skip
    make = diffusers.CogVideoXPipeline._prepare_rotary_positional_embeddings
    expected = make(me, 2 * rows, 2 * columns, frames, torch.device("cpu"))
    found = cogvideox.rotary(16, grid, patch_t, (7, 8), "cpu")
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_dit_of_diffusers_takes_square_latents_only(ours, theirs):
    """It takes the square root of the number of tokens for height and width."""
    with pytest.raises(ValueError, match="make the empty latent square"):
        ours("dit")(torch.zeros(1, 4, 8, 12), 0.5, conditioning("dit", 1))
    with pytest.raises(RuntimeError):
        theirs("dit")(torch.zeros(1, 4, 8, 12), torch.ones(1), torch.ones(1, dtype=torch.long))


def test_overflow_in_float16_is_named(folders):
    mine = kit.load(kit.read_folder(folders("cogvideox-5b")), torch.float16)
    with torch.no_grad():
        mine.network.proj_out.weight.mul_(60000).clamp_(-60000, 60000)
    with pytest.raises(FloatingPointError, match=r"CogVideoX.*σ = 0.5 in fp16: .* bf16"):
        mine(latent("cogvideox-5b"), 0.5, conditioning("cogvideox-5b"))


# ------------------------------------------------------------------------------------------- dtypes

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


@pytest.mark.parametrize(
    ("name", "stored", "device", "chosen", "why"),
    [
        ("cogvideox-5b", BF16, "cuda", BF16, "stored in bfloat16"),
        ("cogvideox-5b", FP16, "cuda", BF16, "trained in bfloat16"),
        ("cogvideox-2b", FP16, "cuda", FP16, "stored in float16"),
        ("cogvideox-2b", FP16, "cpu", FP32, "CPU"),
        ("flux", FP16, "cuda", BF16, "trained in bfloat16"),
        ("sd", FP16, "cuda", FP16, "stored in float16"),
        ("sd", BF16, "cuda", BF16, "stored in bfloat16"),
        ("flux", FP32, "cuda", FP32, "stored in float32"),
    ],
)
def test_the_automatic_dtype_says_why(name, stored, device, chosen, why):
    dtype, reason = kit.choose_dtype("auto", stored, TINY[name].kind, TINY[name].config, device)
    assert dtype == chosen
    assert why in reason
    if BF16 in (chosen, stored):
        with pytest.raises(ValueError, match="choose bf16, fp32 or auto"):
            kit.choose_dtype("fp16", stored, TINY[name].kind, TINY[name].config)
    assert kit.choose_dtype("fp32", stored, TINY[name].kind, TINY[name].config)[0] == FP32


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match="choose one of auto, fp32, bf16, fp16"):
        kit.choose_dtype("half", FP32, "UNet2DModel", {})


def test_a_folder_in_bfloat16_stays_so_and_wan_keeps_its_clock_in_float32(tmp_path):
    mine = kit.load(kit.read_folder(save("wan", tmp_path, torch.bfloat16)))
    assert mine.dtype == torch.bfloat16
    assert mine.dtype_reason == "the weights are stored in bfloat16"
    assert mine.network.condition_embedder.time_embedder.linear_1.weight.dtype == torch.float32
    assert mine.set_dtype(torch.float32).dtype == torch.float32
