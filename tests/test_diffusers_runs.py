"""Whole runs with tiny random folders, against diffusers' pipelines."""

import math
from dataclasses import replace
from types import SimpleNamespace

import diffusers_cases as cases
import numpy as np
import pytest
import torch
from diffusers_cases import called, error, latent
from diffusers_folders import TINY, conditioning, save, scheduler

from sampling_kit.schedulers.denoiser import diffusers as kit
from sampling_kit.schedulers.denoiser.many import many
from sampling_kit.schedulers.noise_schedule import Measured
from sampling_kit.schedulers.path import VE, VP, Flow
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.sample import sample
from sampling_kit.schedulers.solver import DDIM, DDPM, DPMSolverMultistep, Euler, RectifiedFlow
from sampling_kit.schedulers.solver.run import Run

diffusers = pytest.importorskip("diffusers")
folders, ours, theirs = cases.folders, cases.ours, cases.theirs
no_gradients = cases.no_gradients
every = pytest.mark.parametrize("name", TINY)


# ----------------------------------------------------------------------------------------- full runs


def guided(mine, cond, uncond, scale):
    """D with CFG, both branches in one call."""

    def denoise(x, sigma):
        d, u = many(mine, x, sigma, [cond, uncond])
        return u + scale * (d - u)

    return denoise


def sampled(solver, path, kappas, denoise, x, noise=None):
    return solver.plan(Points(path, tuple(kappas))).solve(Run(denoise, noise), x)


def pictures(x):
    return (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()


def test_ddim_pipeline(ours):
    mine = ours("ddim-x0")
    s = diffusers.DDIMScheduler.from_config(scheduler("ddim-x0").config, clip_sample=False)
    pipe = diffusers.DDIMPipeline(unet=mine.network, scheduler=s)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(2, torch.Generator().manual_seed(0), 0.0, 10, output_type="np").images
    s = pipe.scheduler  # a copy of ours
    assert not s.config.clip_sample
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    kappas = [*mine.noise_schedule.kappa(s.timesteps.numpy()), 0.0]
    got = pictures(sampled(DDIM(), VP(), kappas, mine, x))
    assert np.mean((got > 0) & (got < 1)) > 0.5  # not all clipped
    assert np.abs(got - theirs).max() < 1e-4


def test_ddpm_pipeline(ours, monkeypatch):
    from diffusers.schedulers import scheduling_ddpm

    mine = ours("ddim-x0")
    s = diffusers.DDPMScheduler.from_config(scheduler("ddim-x0").config, clip_sample=True)
    pipe = diffusers.DDPMPipeline(unet=mine.network, scheduler=s)
    pipe.set_progress_bar_config(disable=True)
    draws = lambda i: torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(i))  # noqa: E731
    count = iter(range(1, 100))
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *a, **k: draws(next(count)))
    theirs = pipe(2, torch.Generator().manual_seed(0), 20, output_type="np").images
    kappas = [*mine.noise_schedule.kappa(s.timesteps.numpy()), 0.0]
    got = pictures(sampled(DDPM(clip_x0=1.0), VP(), kappas, mine, draws(0), lambda i, like: draws(i)))  # fmt: skip
    assert np.mean((got > 0) & (got < 1)) > 0.5
    assert np.abs(got - theirs).max() < 1e-4


SD_RUNS = {
    "DDIM": ("DDIMScheduler", dict(clip_sample=False, set_alpha_to_one=True), DDIM()),
    "Euler": ("EulerDiscreteScheduler", {}, Euler()),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", dict(lower_order_final=False), DPMSolverMultistep()),
}  # fmt: skip


def sd_pipeline(name, vae, unet, s, cond, uncond):
    """The pipeline without text encoders, and its prompt arguments."""
    embeds = dict(prompt_embeds=cond["text"], negative_prompt_embeds=uncond["text"])
    shared = dict(vae=vae, unet=unet, scheduler=s, tokenizer=None, text_encoder=None)
    if name != "sdxl":
        options = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        return diffusers.StableDiffusionPipeline(**shared, **options), embeds
    pipe = diffusers.StableDiffusionXLPipeline(**shared, text_encoder_2=None, tokenizer_2=None)
    pipe.text_encoder_2 = SimpleNamespace(
        config=SimpleNamespace(projection_dim=24), dtype=torch.float32
    )
    pooled = dict(pooled_prompt_embeds=cond["pooled"], negative_pooled_prompt_embeds=uncond["pooled"])  # fmt: skip
    return pipe, embeds | pooled


@pytest.mark.some(4)
@pytest.mark.parametrize("method", SD_RUNS)
@pytest.mark.parametrize("name", ["sd", "sd2-v", "sdxl"])
def test_stable_diffusion_pipelines(name, method, ours, folders):
    kind, options, solver = SD_RUNS[method]
    config = {k: v for k, v in scheduler(name).config.items() if k.startswith(("beta_", "prediction", "rescale"))}  # fmt: skip
    s = getattr(diffusers, kind)(**config, **options, steps_offset=1, timestep_spacing="trailing")
    mine, x = ours(name), latent(name)
    cond, uncond = conditioning(name), conditioning(name, seed=7)
    vae = diffusers.AutoencoderKL.from_pretrained(folders(name) / "vae")
    pipe, embeds = sd_pipeline(name, vae, mine.network, s, cond, uncond)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        **embeds, num_inference_steps=10, guidance_scale=3.0, latents=x.clone(), output_type="latent", height=16, width=24
    ).images  # fmt: skip
    if name == "sd2-v" and method != "DDIM":
        # Their last level is ᾱ = 2⁻²⁴ for 0, a state of κ = 4096 that the network is told is pure noise.
        table = np.sqrt(1 / s.alphas_cumprod.double().numpy() - 1)
        mine = mine.using(replace(mine.trained, noise_schedule=Measured(tuple(table.tolist()))))
    kappas = [*mine.noise_schedule.kappa(s.timesteps.numpy()), 0.0]
    path = VP()
    if method == "Euler":  # keeps its state in x/α, and starts at x·√(κ² + 1) or, trailing, x·κ
        path, x = VE(), x * s.init_noise_sigma
    out = sampled(solver, path, kappas, guided(mine.using(path=path), cond, uncond, 3.0), x)
    assert error(out, theirs, latent(name)) < 1e-4


def test_ddim_with_set_alpha_to_one_false_stops_at_the_first_timestep_s_level(ours, folders):
    """The config of Stable Diffusion 1: the last step goes to t = 0, whose level is not 0, and x0 is not reached."""
    mine, x, cond = ours("sd"), latent("sd"), conditioning("sd")
    beta = {k: v for k, v in scheduler("sd").config.items() if k.startswith("beta_")}
    s = diffusers.DDIMScheduler(**beta, steps_offset=1, clip_sample=False, set_alpha_to_one=False)
    s.set_timesteps(10)
    theirs = x
    for t in s.timesteps:
        theirs = s.step(called("sd", mine.network, theirs, t, cond), t, theirs).prev_sample
    kappas = [*mine.noise_schedule.kappa(s.timesteps.numpy()), mine.noise_schedule.kappa_min]
    out = sampled(DDIM(), VP(), kappas, lambda y, sigma: mine(y, sigma, cond), x)
    assert kappas[-1] == pytest.approx(0.0292, abs=1e-4)
    assert error(out, theirs, x) < 1e-4


def test_sd3_pipeline(ours, folders):
    name = "sd3"
    mine, s = ours(name), scheduler(name)
    vae = diffusers.AutoencoderKL.from_pretrained(folders(name) / "vae")
    none = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3"))  # fmt: skip
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer=mine.network, scheduler=s, vae=vae, **none
    )
    pipe.set_progress_bar_config(disable=True)
    x, cond, uncond = latent(name), conditioning(name), conditioning(name, seed=7)
    theirs = pipe(
        prompt_embeds=cond["text"], negative_prompt_embeds=uncond["text"], pooled_prompt_embeds=cond["pooled"],
        negative_pooled_prompt_embeds=uncond["pooled"], num_inference_steps=8, guidance_scale=4.0, latents=x.clone(),
        output_type="latent", height=16, width=24,
    ).images  # fmt: skip
    levels = Points.from_sigmas(Flow(), s.sigmas.tolist()).kappas
    out = sampled(RectifiedFlow(), Flow(), levels, guided(mine, cond, uncond, 4.0), x)
    assert error(out, theirs, x) < 1e-4


def test_flux_pipeline(ours, folders):
    name = "flux"
    mine, s = ours(name), scheduler(name)
    vae = diffusers.AutoencoderKL.from_pretrained(folders(name) / "vae")
    none = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipe = diffusers.FluxPipeline(transformer=mine.network, scheduler=s, vae=vae, **none)
    pipe.set_progress_bar_config(disable=True)
    x, cond = latent(name), conditioning(name)
    b, c, h, w = x.shape
    theirs = pipe(
        prompt_embeds=cond["text"], pooled_prompt_embeds=cond["pooled"], num_inference_steps=8, guidance_scale=3.5,
        latents=pipe._pack_latents(x, b, c, h, w), output_type="latent", height=2 * h, width=2 * w,
    ).images  # fmt: skip
    shift = mine.trained.at(mine.tokens(tuple(x.shape[1:]))).noise_schedule
    times = np.linspace(1, 1 / 8, 8)
    kappas = [*shift.kappa(times), 0.0]
    levels = [Flow().at(float(k)).sigma for k in kappas]
    assert levels == pytest.approx(s.sigmas.tolist(), abs=1e-6)  # the shift for these 24 tokens
    out = sampled(RectifiedFlow(), Flow(), kappas, lambda y, sigma: mine(y, sigma, cond), x)
    assert error(out, pipe._unpack_latents(theirs, h, w, 1), x) < 1e-4


@pytest.mark.parametrize("name", ["cogvideox-2b", "cogvideox-5b"])
def test_cogvideox_pipeline(name, ours, folders):
    mine = ours(name)
    s = diffusers.CogVideoXDDIMScheduler.from_config(scheduler(name).config)
    vae = diffusers.AutoencoderKLCogVideoX.from_pretrained(folders(name) / "vae")
    pipe = diffusers.CogVideoXPipeline(tokenizer=None, text_encoder=None, vae=vae, transformer=mine.network, scheduler=s)  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    x, cond, uncond = latent(name), conditioning(name), conditioning(name, seed=7)
    f, h, w = x.shape[2:]
    theirs = pipe(
        prompt_embeds=cond["text"], negative_prompt_embeds=uncond["text"], num_inference_steps=10, guidance_scale=3.0,
        latents=x.transpose(1, 2).clone(), output_type="latent", height=2 * h, width=2 * w,
        num_frames=(f - 1) * vae.config.temporal_compression_ratio + 1, max_sequence_length=8,
    ).frames  # fmt: skip
    kappas = [*mine.noise_schedule.kappa(s.timesteps.numpy()), 0.0]
    assert math.isinf(kappas[0])  # zero terminal SNR
    out = sampled(DDIM(), VP(), kappas, guided(mine, cond, uncond, 3.0), x)
    assert error(out, theirs.transpose(1, 2), x) < 1e-4


@pytest.mark.parametrize("name", ["cogvideox-2b", "cogvideox-5b", "sd2-v"])
def test_zero_snr_runs_in_comfyui_s_coordinates(name, ours):
    """SIGMAS hold a finite stand-in for pure noise; the network is told pure noise there all the same."""
    mine, x, cond = ours(name), latent(name), conditioning(name)
    kappas = [*mine.noise_schedule.kappa(np.array([999, 749, 499, 249])), 0.0]
    points = Points(VP(), tuple(kappas))
    sigmas = torch.tensor(points.sigmas())
    assert mine.trained.time(float(sigmas[0])) == 999
    assert mine.trained.time(float(mine.noise_schedule.kappa(998))) == pytest.approx(998)
    native = DDIM().plan(points).solve(Run(lambda y, sigma: mine(y, sigma, cond)), x)
    host = mine.using(path=mine.path.host)
    denoise = lambda y, sigma: host(y, sigma, cond)  # noqa: E731
    out = sample(DDIM(), VP(), Run(denoise), x * sigmas[0], sigmas.tolist())
    assert error(out, native, x) < 1e-3


def test_a_bfloat16_cogvideox_folder_makes_frames(tmp_path):
    path = kit.read_folder(save("cogvideox-5b", tmp_path, torch.bfloat16))
    mine, vae = kit.load(path), kit.load_vae(path)
    assert (mine.dtype, vae.dtype) == (torch.bfloat16, torch.bfloat16)
    mine, cond = mine.using(path=mine.path.host), conditioning("cogvideox-5b", 1)
    x = latent("cogvideox-5b", 1)
    levels = [*mine.noise_schedule.kappa(np.array([998, 749, 499, 249])), 0.0]
    out = sample(DDIM(), VP(), Run(lambda y, sigma: mine(y, sigma, cond)), x * levels[0], levels)
    frames = vae.decode(out)
    assert out.dtype == frames.dtype == torch.float32
    assert frames.shape == (1, 3, 5, 16, 24)
    assert frames.isfinite().all()
    assert frames.std() > 0


def test_cogvideox_dpm_of_diffusers_steps_past_its_own_grid():
    """Its previous timestep is t − 1000//n: with 30 steps a third of the steps do not go to the next level, so
    its latents are not those of any solver on these levels. (5B's folder names it; the DDIM one is compared.)"""
    s = scheduler("cogvideox-5b")
    s.set_timesteps(30)
    went = s.timesteps[:-1] - s.config.num_train_timesteps // s.num_inference_steps
    assert int((went != s.timesteps[1:]).sum()) == 10
