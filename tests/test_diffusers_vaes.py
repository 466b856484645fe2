"""VAEs of diffusers folders, against diffusers."""

import diffusers_cases as cases
import pytest
import torch
from diffusers_cases import edit, latent
from diffusers_folders import TINY, VAES, save

from sampling_kit.schedulers.denoiser import diffusers as kit

diffusers = pytest.importorskip("diffusers")
folders, ours, theirs = cases.folders, cases.ours, cases.theirs
no_gradients = cases.no_gradients
every = pytest.mark.parametrize("name", TINY)


# ----------------------------------------------------------------------------------------------- VAE


@pytest.mark.parametrize("kind", VAES)
def test_vaes_encode_and_decode_as_the_pipelines_do(kind, folders):
    from diffusers_folders import build

    name = next(n for n, t in TINY.items() if t.vae == kind)
    vae, theirs = kit.load_vae(kit.read_folder(folders(name))), build(kind, VAES[kind])
    latents, c = latent(name, 1), theirs.config
    z = latents / (c.get("scaling_factor") or 1.0)
    if kind == "AutoencoderKLWan":
        mean, std = (
            torch.tensor(c[k]).reshape(1, -1, 1, 1, 1) for k in ("latents_mean", "latents_std")
        )
        z = latents * std + mean
    expected = theirs.decode(z).sample
    images = vae.decode(latents)
    assert torch.allclose(images, expected, atol=1e-5)
    space, f = vae.latents.spatial, vae.latents.temporal
    sizes = [n * space for n in latents.shape[-2:]]
    if (
        vae.dims == 3 and latents.shape[2] % 2
    ):  # an even number of frames has no first frame of its own
        sizes = [(latents.shape[2] - 1) * f + 1, *sizes]
        assert list(images.shape[2:]) == sizes
    coded = theirs.encode(images)
    coded = coded.latent if kind == "AutoencoderDC" else coded.latent_dist.mode()
    again = vae.encode(images)
    assert torch.allclose(vae.latents.to_vae(again), coded, atol=1e-5)
    with pytest.raises(ValueError, match="takes"):
        vae.decode(latents[:, :-1])


def test_latents_with_a_shift_and_statistics():
    latents = kit.Latents(scale=0.3611, shift=0.1159)  # Flux
    z = torch.randn(1, 2, 3, 3)
    assert torch.allclose(latents.from_vae(z), (z - 0.1159) * 0.3611)
    latents = kit.Latents(scale=0.5, mean=(0.1, -0.2), std=(2.0, 4.0))  # Playground
    expected = (z - torch.tensor([0.1, -0.2]).reshape(1, 2, 1, 1)) * 0.5 / torch.tensor([2.0, 4.0]).reshape(1, 2, 1, 1)  # fmt: skip
    assert torch.allclose(latents.from_vae(z), expected)
    assert torch.allclose(latents.to_vae(expected), z, atol=1e-6)


def test_tiles_are_chosen_and_the_latent_scale_is_read_without_loading(folders):
    place = kit.read_folder(folders("cogvideox-2b"))
    assert kit.latents_of(place) == kit.Latents(0.7, spatial=2, temporal=2, channels=4, step=4)
    vae = kit.load_vae(place).tile()
    assert vae.module.use_tiling
    assert not vae.tile(False).module.use_tiling
    assert kit.latents_of(kit.read_folder(folders("ddpm"))) is None


def test_a_factor_that_cannot_be_is_refused(tmp_path):
    path = save("sd", tmp_path)
    edit(path / "vae/config.json", scaling_factor=-1)
    with pytest.raises(ValueError, match=r"scaling_factor = -1.0 must be above 0"):
        kit.load(kit.read_folder(path))
