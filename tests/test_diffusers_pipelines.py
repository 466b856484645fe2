"""A whole run of each family, two prompts, against its pipeline: same noise, 3 steps, odd sizes, a negative.

Stable Diffusion, SD3, Flux and CogVideoX are in ``test_diffusers_runs.py``. DiT is not here: its pipeline takes
class 1000 for none, whatever the config; nor PixArt-α, whose pipeline gives sizes at a sample size of 128 only.
``test_diffusers_networks.py`` compares their networks.
"""

import diffusers_cases as cases
import pytest
import torch
from diffusers_cases import error, latent
from diffusers_folders import TINY, conditioning, scheduler
from test_diffusers_runs import guided, sampled

from sampling_kit.schedulers.path import VP, Flow
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import DPMSolverMultistep, RectifiedFlow

diffusers = pytest.importorskip("diffusers")
folders, ours, no_gradients = cases.folders, cases.ours, cases.no_gradients
SCALE, STEPS = 3.0, 3


def made(kind, name, folders, network, s, **more):
    vae = getattr(diffusers, TINY[name].vae).from_pretrained(folders(name) / "vae")
    pipe = getattr(diffusers, kind)(
        tokenizer=None, text_encoder=None, vae=vae, transformer=network, scheduler=s, **more
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def prompts(name):
    """(cond, uncond, the pipeline's arguments)."""
    cond, uncond = conditioning(name), conditioning(name, seed=7)
    args = dict(prompt_embeds=cond["text"], negative_prompt_embeds=uncond["text"])
    if "mask" in cond:
        args |= dict(
            prompt_attention_mask=cond["mask"], negative_prompt_attention_mask=uncond["mask"]
        )
    return cond, uncond, args | dict(num_inference_steps=STEPS, guidance_scale=SCALE, output_type="latent")  # fmt: skip


def test_pixart(ours, folders):
    name = "pixart-sigma"
    mine, x = ours(name), latent(name)
    s = diffusers.DPMSolverMultistepScheduler(timestep_spacing="trailing", lower_order_final=False)
    cond, uncond, args = prompts(name)
    if "mask" not in cond:
        cond, uncond = ({**c, "mask": torch.ones(2, 5, dtype=torch.long)} for c in (cond, uncond))
        args |= dict(prompt_attention_mask=cond["mask"], negative_prompt_attention_mask=uncond["mask"])  # fmt: skip
    pipe = made("PixArtSigmaPipeline", name, folders, mine.network, s)
    theirs = pipe(latents=x.clone(), height=16, width=24, use_resolution_binning=False, negative_prompt=None, **args).images  # fmt: skip
    kappas = [*mine.noise_schedule.kappa(s.timesteps.numpy()), 0.0]
    out = sampled(DPMSolverMultistep(), VP(), kappas, guided(mine, cond, uncond, SCALE), x)
    assert error(out, theirs, x) < 1e-4


def flow(mine, s, cond, uncond, x):
    levels = Points.from_sigmas(Flow(), s.sigmas.tolist()).kappas
    return sampled(RectifiedFlow(), Flow(), levels, guided(mine, cond, uncond, SCALE), x)


def test_sana(ours, folders):
    mine, x = ours("sana"), torch.randn(2, 4, 16, 32, generator=torch.Generator().manual_seed(0))
    s = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    cond, uncond, args = prompts("sana")
    pipe = made("SanaPipeline", "sana", folders, mine.network, s)
    size = pipe.vae_scale_factor
    theirs = pipe(
        latents=x.clone(), height=16 * size, width=32 * size, use_resolution_binning=False, negative_prompt=None, **args
    ).images  # fmt: skip
    assert error(flow(mine, s, cond, uncond, x), theirs, x) < 1e-4


def test_wan(ours, folders):
    mine, x = ours("wan"), latent("wan")
    s = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    cond, uncond, args = prompts("wan")
    pipe = made("WanPipeline", "wan", folders, mine.network, s)
    theirs = pipe(latents=x.clone(), height=32, width=48, num_frames=9, **args).frames
    assert error(flow(mine, s, cond, uncond, x), theirs, x) < 1e-4


def test_ltx_with_the_shift_for_its_size(ours, folders):
    mine, x = ours("ltx"), torch.randn(2, 4, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    s = diffusers.FlowMatchEulerDiscreteScheduler.from_config(scheduler("ltx").config, shift_terminal=None)  # fmt: skip
    cond, uncond, args = prompts("ltx")
    pipe = made("LTXPipeline", "ltx", folders, mine.network, s)
    packed = pipe._pack_latents(x)
    theirs = pipe(latents=packed, height=32, width=64, num_frames=17, **args).frames
    theirs = pipe._unpack_latents(theirs, *x.shape[2:])
    schedule = mine.noise_schedule.for_latent(tuple(x.shape[1:]))
    expected = [Flow().at(float(k)).sigma for k in schedule.kappa([1, 2 / 3, 1 / 3])]
    assert s.sigmas[:-1].tolist() == pytest.approx(expected, abs=1e-6)
    assert error(flow(mine, s, cond, uncond, x), theirs, x) < 1e-4
