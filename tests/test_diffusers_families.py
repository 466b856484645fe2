"""More whole runs against pipelines (DiT, PixArt-α, inpainting, InstructPix2Pix), and every family's files: variants, shards.

Two prompts, a negative, sizes that are not square where the family has them; see docs/families.md.
"""

from types import SimpleNamespace

import diffusers_cases as cases
import pytest
import torch
from diffusers_cases import error, latent
from diffusers_folders import TINY, conditioning, network, save, scheduler
from product import each
from test_diffusers_runs import guided, sampled, sd_pipeline

from sampling_kit.schedulers.denoiser import diffusers as kit
from sampling_kit.schedulers.denoiser.many import many
from sampling_kit.schedulers.path import VP
from sampling_kit.schedulers.solver import DDIM, DPMSolverMultistep

diffusers = pytest.importorskip("diffusers")
folders, ours, no_gradients = cases.folders, cases.ours, cases.no_gradients
SCALE, STEPS = 3.0, 4  # DDIM of diffusers leaves its grid where the steps do not divide 1000


@pytest.mark.some(6)
@each(name=list(TINY), files=["variant", "shards", "shards of a variant"])
def test_variant_and_sharded_files_of_every_family(name, files, tmp_path):
    variant = "fp16" if "variant" in files else None
    how = dict(variant=variant) | (dict(max_shard_size="8KB") if "shards" in files else {})
    path = save(name, tmp_path, torch.float16 if variant else torch.float32, **how)
    weights = list((path / TINY[name].place).glob("*.safetensors"))
    assert (len(weights) > 1) == ("shards" in files)
    mine = kit.load(kit.read_folder(path, variant=variant or ""), torch.float32).network
    expected = network(name)
    expected = expected.half().float() if variant else expected
    for key, value in expected.state_dict().items():
        assert torch.equal(mine.state_dict()[key], value), key


def ddim(name):
    config = {k: v for k, v in scheduler(name).config.items() if k.startswith(("beta_", "prediction"))}  # fmt: skip
    return diffusers.DDIMScheduler(**config, clip_sample=False, timestep_spacing="trailing")


def levels(mine, s):
    return [*mine.noise_schedule.kappa(s.timesteps.numpy()), 0.0]


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def changed(tmp_path):
    """(family, changes of its config) → its denoiser."""
    made = []

    def change(name, **config):
        key = f"{name} changed"
        TINY[key] = TINY[name].using(config={**TINY[name].config, **config})
        made.append(key)
        return kit.load(kit.read_folder(save(key, tmp_path)))

    yield change
    for key in made:
        del TINY[key]


def test_dit(changed, monkeypatch):
    """With the 1000 classes that its pipeline takes for granted."""
    mine, s = changed("dit", num_embeds_ada_norm=1000), ddim("dit")
    vae = SimpleNamespace(config=SimpleNamespace(scaling_factor=1.0), decode=lambda z: SimpleNamespace(sample=1e-3 * z))  # fmt: skip
    pipe = diffusers.DiTPipeline(transformer=mine.network, vae=None, scheduler=s)
    object.__setattr__(pipe, "vae", vae)
    images = quiet(pipe)([3, 7], SCALE, torch.Generator().manual_seed(0), STEPS, "np").images
    theirs = 1e3 * (2 * torch.from_numpy(images).movedim(-1, 1) - 1)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    cond, uncond = (dict(labels=torch.tensor(c)) for c in ([3, 7], [1000, 1000]))
    out = sampled(DDIM(), VP(), levels(mine, s), guided(mine, cond, uncond, SCALE), x)
    assert 0 < images.min() < images.max() < 1
    assert error(out, theirs, x) < 1e-4


def test_pixart_alpha(changed, folders):
    """At the sample size of 128 at which its pipeline tells the network sizes."""
    name = "pixart-alpha"
    mine, x = changed(name, sample_size=128), latent(name)
    s = diffusers.DPMSolverMultistepScheduler(timestep_spacing="trailing", lower_order_final=False)
    vae = diffusers.AutoencoderKL.from_pretrained(folders(name) / "vae")
    pipe = diffusers.PixArtAlphaPipeline(
        tokenizer=None, text_encoder=None, vae=vae, transformer=mine.network, scheduler=s
    )
    cond, uncond = conditioning(name), conditioning(name, seed=7)
    theirs = quiet(pipe)(
        prompt_embeds=cond["text"], negative_prompt_embeds=uncond["text"], prompt_attention_mask=cond["mask"],
        negative_prompt_attention_mask=uncond["mask"], num_inference_steps=STEPS, guidance_scale=SCALE, latents=x.clone(),
        height=16, width=24, use_resolution_binning=False, negative_prompt=None, output_type="latent",
    ).images  # fmt: skip
    out = sampled(DPMSolverMultistep(), VP(), levels(mine, s), guided(mine, cond, uncond, SCALE), x)
    assert error(out, theirs, x) < 1e-4


def picture(seed):
    return torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def mode(monkeypatch):
    """Pipelines take the mode of what a VAE encodes, as the core's nodes do."""
    kind = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution
    monkeypatch.setattr(kind, "sample", lambda self, generator=None: self.mode())


def stable(kind, name, mine, folders, s, cond, uncond):
    vae = diffusers.AutoencoderKL.from_pretrained(folders(name) / "vae")
    text, embeds = sd_pipeline("sd", vae, mine.network, s, cond, uncond)
    parts = {k: v for k, v in text.components.items() if k != "image_encoder"}
    return quiet(getattr(diffusers, kind)(**parts, requires_safety_checker=False)), vae, embeds


def test_inpainting(ours, folders, mode):
    name = "sd-inpaint"
    mine, x, s = ours(name), latent(name), ddim(name)
    cond, uncond = conditioning(name), conditioning(name, seed=7)
    pipe, vae, embeds = stable("StableDiffusionInpaintPipeline", name, mine, folders, s, cond, uncond)  # fmt: skip
    image, mask = picture(3), torch.zeros(2, 1, 16, 24)
    mask[..., 8:20] = 1
    theirs = pipe(
        image=image, mask_image=mask, **embeds, num_inference_steps=STEPS, guidance_scale=SCALE, strength=1.0,
        latents=x.clone(), height=16, width=24, output_type="latent",
    ).images  # fmt: skip
    kept = (2 * image - 1) * (mask < 0.5)
    beside = mine.picture(vae.encode(kept).latent_dist.mode(), mask)
    both = guided(mine, {**cond, "concat": beside}, {**uncond, "concat": beside}, SCALE)
    out = sampled(DDIM(), VP(), levels(mine, s), both, x)
    assert error(out, theirs, x) < 1e-4


def test_instruct_pix2pix(ours, folders, mode):
    """Three branches: text and picture, the picture alone, neither."""
    name, weight = "instruct-pix2pix", 1.5
    mine, x, s = ours(name), latent(name), ddim(name)
    cond, uncond = conditioning(name), conditioning(name, seed=7)
    pipe, vae, embeds = stable("StableDiffusionInstructPix2PixPipeline", name, mine, folders, s, cond, uncond)  # fmt: skip
    image = picture(4)
    theirs = pipe(
        image=image, **embeds, num_inference_steps=STEPS, guidance_scale=SCALE, image_guidance_scale=weight,
        latents=x.clone(), output_type="latent",
    ).images  # fmt: skip
    beside = mine.picture(vae.encode(2 * image - 1).latent_dist.mode())
    branches = [{**cond, "concat": beside}, {**uncond, "concat": beside}, {**uncond, "concat": 0 * beside}]  # fmt: skip

    def denoise(y, sigma):
        text, seen, none = many(mine, y, sigma, branches)
        return none + SCALE * (text - seen) + weight * (seen - none)

    out = sampled(DDIM(), VP(), levels(mine, s), denoise, x)
    assert error(out, theirs, x) < 1e-4
