"""The weightless latent space: the transform itself, denoisers in it, the VAE on the wire."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sampling_kit.nodes.denoiser.embedded import EmbeddedDenoiser, EmbeddedVAE, scenes
from sampling_kit.nodes.image.diffusers_latent import EmptyDiffusersLatent
from sampling_kit.schedulers.denoiser import ImageSet, Mixture
from sampling_kit.schedulers.denoiser.latent import (
    COLOURS,
    PREVIEW,
    InLatents,
    decode,
    encode,
    kernel,
)
from sampling_kit.schedulers.noise_schedule import EDM, LinearVP, RectifiedFlowSchedule
from sampling_kit.schedulers.path import PATHS, VE
from sampling_kit.schedulers.sample import sample
from sampling_kit.schedulers.solver import DDIM
from sampling_kit.schedulers.solver.run import Run
from sampling_kit.schedulers.spacing import Trailing, space


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ------------------------------------------------------------------------------------ the transform


def test_the_transform_is_orthogonal_and_loses_nothing():
    t = kernel().reshape(12, 12)
    assert torch.allclose(t @ t.T, torch.eye(12, dtype=torch.float64), atol=1e-15)
    x = random(2, 3, 6, 10)
    z = encode(x)
    assert z.shape == (2, 12, 3, 5)
    assert torch.allclose(decode(z), x, atol=1e-14)
    assert torch.allclose(z.square().sum(), x.square().sum(), rtol=1e-14)


def test_one_block_by_the_formula_in_the_docstring():
    x = random(1, 3, 2, 2)
    colours = torch.tensor(COLOURS, dtype=torch.float64)
    a, b, c, d = (colours @ x[0].flatten(1)).unbind(1)
    parts = [a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d]
    assert torch.allclose(encode(x).flatten(), torch.cat(parts) / 2)


def test_the_preview_is_the_picture_at_half_the_size():
    x = random(1, 3, 8, 8)
    preview = torch.einsum("bchw,cr->brhw", encode(x), torch.tensor(PREVIEW, dtype=torch.float64))
    assert torch.allclose(preview, F.avg_pool2d(x, 2))


def test_the_spread_of_the_channels_is_what_the_docs_say():
    std = encode(scenes(20, 32).flatten(0, 1)).std((0, 2, 3))
    assert std[:3].tolist() == pytest.approx([1.7, 0.6, 0.5], abs=0.06)
    assert std[3:].min() > 0.03 and std[3:].max() < 0.29


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 3, 5, 4), (1, 3, 4, 5), (1, 4, 4, 4)])
def test_a_picture_without_latents_is_refused(shape):
    with pytest.raises(ValueError, match="even sides"):
        encode(torch.zeros(shape))
    with pytest.raises(ValueError, match="12, h, w"):
        decode(torch.zeros(shape))


def test_the_kernel_passes_gradients_after_inference_mode():
    kernel.cache_clear()
    with torch.inference_mode():
        encode(torch.zeros(1, 3, 2, 2))
    x = torch.zeros(1, 3, 2, 2, requires_grad=True)
    encode(x)[0, 0].sum().backward()
    assert x.grad is not None


# --------------------------------------------------------------------------------------- denoisers


@pytest.mark.parametrize("path", [p() for p in PATHS], ids=lambda p: p.name)
def test_the_denoiser_of_latents_is_the_posterior_mean_of_latents(path):
    """Against a mixture whose components were themselves carried over into latents."""
    means, basis = random(2, 3, 4, 4), torch.linalg.qr(random(2, 48, 3, seed=1)).Q.mT
    floor, variances = torch.tensor([0.1, 0.3], dtype=torch.float64), random(2, 3, seed=2) ** 2
    labels = torch.tensor([0, 1])
    pixels = Mixture(path, means, floor, basis.reshape(2, 3, 3, 4, 4), variances, labels=labels)
    carried = encode(basis.reshape(6, 3, 4, 4)).reshape(2, 3, 12, 2, 2)
    latents = Mixture(path, encode(means), floor, carried, variances, labels=labels)
    classes = torch.eye(2, dtype=torch.float64)
    for kappa in (0.1, 1.0, 20.0):
        z, sigma = random(2, 12, 2, 2, seed=3), path.at(kappa).sigma
        assert torch.allclose(
            InLatents(pixels)(z, sigma, classes), latents(z, sigma, classes), atol=1e-10
        )


@pytest.mark.parametrize(
    "schedule", [EDM(), LinearVP(), RectifiedFlowSchedule()], ids=lambda s: s.path.name
)
def test_a_latent_run_is_the_pixel_run(schedule):
    """From noise carried over, the same solver ends at the same picture."""
    path, images = schedule.path.host, scenes(4, 24).double()
    model, points = ImageSet(path, images), space(schedule, 6, Trailing())
    inside, levels, noise = InLatents(model), points.sigmas(), random(2, 3, 24, 24)

    def run(denoise, start):
        x = start * levels[0]
        return sample(
            DDIM(), schedule.path, Run(denoise, lambda *_: None, lambda _: None), x, levels
        )

    pixels, latents = run(model, noise), run(inside, encode(noise))
    assert pixels.std() > 0.2
    assert torch.allclose(decode(latents), pixels, atol=1e-9)


def test_shape_classes_and_errors():
    inside = InLatents(ImageSet(VE(), random(10, 2, 3, 6, 8)))
    assert (inside.shape, inside.classes) == ((12, 3, 4), 10)
    with pytest.raises(ValueError, match="width 8, height 6"):
        inside(torch.zeros(1, 3, 6, 8), 1.0)
    with pytest.raises(ValueError, match="sides must be even"):
        InLatents(ImageSet(VE(), random(1, 2, 3, 5, 8)))


# ------------------------------------------------------------------------------------------- nodes


def test_the_vae_on_the_wire():
    vae = EmbeddedVAE.execute().args[0]
    images = (scenes(1, 32)[:, 0].movedim(1, -1) + 1) / 2
    z = vae.encode(images)
    assert z.shape == (10, 12, 16, 16)
    assert torch.equal(z, vae.encode_tiled(images, 8, 8, 2))
    for decoded in (vae.decode(z), vae.decode_tiled(z, 4, 4, 1)):
        assert (decoded - images).abs().max() < 1e-6
    assert vae.encode(images[:, :31, :29]).shape == (10, 12, 15, 14)  # cut to whole blocks
    assert (vae.latent_channels, vae.spacial_compression_decode(), vae.get_sd()) == (12, 2, {})
    with pytest.raises(ValueError, match="too small"):
        vae.encode(images[:, :1])


def test_the_latent_model_says_its_shape():
    kind = {"kind": "patches", "size": 32, "scenes": 4, "width": 48}
    model = EmbeddedDenoiser.execute(kind, None, "latent").args[0]
    latent = EmptyDiffusersLatent.execute(model, 48, 32, 1, 2).args[0]
    assert latent["samples"].shape == (2, 12, 16, 24)
    assert latent["downscale_ratio_spacial"] == 2
    assert model.denoiser(latent["samples"], 1.0).isfinite().all()
    with pytest.raises(ValueError, match="space = 'latents': choose one of pixels, latent"):
        EmbeddedDenoiser.execute(kind, None, "latents")
    with pytest.raises(ValueError, match="even"):
        EmbeddedDenoiser.execute({"kind": "images", "size": 33, "scenes": 4}, None, "latent")
