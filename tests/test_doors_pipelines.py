"""KitScheduler inside tiny pipelines of diffusers: the latents of our own run on the same network."""

from __future__ import annotations

import diffusers_cases as cases
import pytest
import torch
from diffusers_cases import error, latent
from diffusers_folders import conditioning, scheduler
from product import each
from test_diffusers_runs import guided, sd_pipeline

from sampling_kit.doors import KitScheduler
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.sample import sample
from sampling_kit.schedulers.solver import (
    DDIM,
    DPMSolverMultistep,
    Euler,
    EulerAncestral,
    HeunEDM,
    RungeKutta,
    UniPC,
)
from sampling_kit.schedulers.solver.run import Run
from sampling_kit.schedulers.spacing import Karras, Trailing, UniformLambda, space

diffusers = pytest.importorskip("diffusers")
folders, ours, no_gradients = cases.folders, cases.ours, cases.no_gradients
#: Multistep, two evaluations a step, many, with noise, and one that churns.
SOLVERS = [DPMSolverMultistep(), UniPC(3), HeunEDM(), RungeKutta(), EulerAncestral(), Euler(20.0)]
SCALE, STEPS = 3.0, 5


def draws(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda position, like: torch.randn(like.shape, generator=generator, dtype=like.dtype)


def own(solver, mine, points, x, cond, uncond=None):
    """As ComfyUI or the command runs it, from the same noise."""
    denoiser = mine.using(path=points.path.host)
    denoise = lambda y, sigma: denoiser(y, sigma, cond)  # noqa: E731
    if uncond is not None:
        denoise = guided(denoiser, cond, uncond, SCALE)
    sigmas = points.sigmas()
    return sample(solver, points.path, Run(denoise, draws(3)), x / points[0].alpha if points[0].alpha else x, sigmas)  # fmt: skip


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.some(2)
@each(solver=SOLVERS, name=["sd", "sd2-v", "sdxl"])
def test_stable_diffusion(solver, name, ours, folders):
    config = {k: v for k, v in scheduler(name).config.items() if k.startswith(("beta_", "prediction", "_class"))}  # fmt: skip
    mine, x = ours(name), latent(name)
    s = KitScheduler.from_config(
        config, trained_as="DDIMScheduler", solver=solver, spacing=Karras()
    )
    mine = mine.using(s.training)
    cond, uncond = conditioning(name), conditioning(name, seed=7)
    vae = diffusers.AutoencoderKL.from_pretrained(folders(name) / "vae")
    pipe, embeds = sd_pipeline(name, vae, mine.network, s, cond, uncond)
    theirs = quiet(pipe)(
        **embeds, num_inference_steps=STEPS, guidance_scale=SCALE, latents=x.clone(), output_type="latent",
        generator=torch.Generator().manual_seed(3), height=16, width=24,
    ).images  # fmt: skip
    points = space(s.schedule, STEPS, Karras())
    assert error(theirs, own(solver, mine, points, x, cond, uncond), x) < 1e-4


@each(solver=[DDIM(), DPMSolverMultistep(), HeunEDM()], strength=[0.4, 0.8])
def test_image_to_image(solver, strength, ours, folders):
    name, steps = "sd", 10
    config = {k: v for k, v in scheduler(name).config.items() if k.startswith(("beta_", "prediction"))}  # fmt: skip
    mine, z = ours(name), latent(name)
    s = KitScheduler.from_config(config, solver=solver, spacing=UniformLambda())
    cond, uncond = conditioning(name), conditioning(name, seed=7)
    vae = diffusers.AutoencoderKL.from_pretrained(folders(name) / "vae")
    text, embeds = sd_pipeline(name, vae, mine.network, s, cond, uncond)
    pipe = diffusers.StableDiffusionImg2ImgPipeline(**{**text.components, "image_encoder": None}, requires_safety_checker=False)  # fmt: skip
    theirs = quiet(pipe)(
        image=z, **embeds, num_inference_steps=steps, guidance_scale=SCALE, strength=strength, output_type="latent",
        generator=torch.Generator().manual_seed(9),
    ).images  # fmt: skip
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(9))
    whole = space(s.schedule, steps, UniformLambda())
    points = Points(whole.path, whole.kappas[-(int(steps * strength) + 1) :])
    assert len(theirs) == 2 and len(points) == steps * strength + 1
    noised = points[0].alpha * z + points[0].sigma * noise
    assert error(theirs, own(solver, mine, points, noised, cond, uncond), z) < 1e-4


@pytest.mark.parametrize("solver", [DPMSolverMultistep(), HeunEDM()])
def test_sd3(solver, ours, folders):
    mine, x = ours("sd3"), latent("sd3")
    s = KitScheduler.from_config(scheduler("sd3").config, solver=solver)
    vae = diffusers.AutoencoderKL.from_pretrained(folders("sd3") / "vae")
    none = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3"))  # fmt: skip
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer=mine.network, scheduler=s, vae=vae, **none
    )
    cond, uncond = conditioning("sd3"), conditioning("sd3", seed=7)
    theirs = quiet(pipe)(
        prompt_embeds=cond["text"], negative_prompt_embeds=uncond["text"], pooled_prompt_embeds=cond["pooled"],
        negative_pooled_prompt_embeds=uncond["pooled"], num_inference_steps=STEPS, guidance_scale=SCALE,
        latents=x.clone(), output_type="latent", height=16, width=24,
    ).images  # fmt: skip
    points = space(s.schedule, STEPS, Trailing())
    assert error(theirs, own(solver, mine, points, x, cond, uncond), x) < 1e-4


@pytest.mark.parametrize("solver", [UniPC(3), RungeKutta()])
def test_flux_with_the_shift_for_its_size(solver, ours, folders):
    mine, x, cond = ours("flux"), latent("flux"), conditioning("flux")
    s = KitScheduler.from_config(scheduler("flux").config, solver=solver)
    vae = diffusers.AutoencoderKL.from_pretrained(folders("flux") / "vae")
    none = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipe = quiet(diffusers.FluxPipeline(transformer=mine.network, scheduler=s, vae=vae, **none))
    b, c, h, w = x.shape
    theirs = pipe(
        prompt_embeds=cond["text"], pooled_prompt_embeds=cond["pooled"], num_inference_steps=STEPS, guidance_scale=3.5,
        latents=pipe._pack_latents(x, b, c, h, w), output_type="latent", height=2 * h, width=2 * w,
    ).images  # fmt: skip
    schedule = mine.trained.at(mine.tokens(tuple(x.shape[1:]))).noise_schedule
    points = space(schedule, STEPS, Trailing())
    assert pipe.scheduler.points.kappas == pytest.approx(points.kappas)
    assert error(pipe._unpack_latents(theirs, h, w, 1), own(solver, mine, points, x, cond), x) < 1e-4  # fmt: skip
