"""The nodes: widgets in, engine values out. No mathematics here."""

from . import (
    denoiser,
    diffusers,
    diffusers_text,
    diffusers_vae,
    guidance,
    images,
    inspect,
    model,
    noise,
    schedule,
    solver,
    state,
)

NODES = (
    *schedule.NODES,
    *denoiser.NODES,
    *diffusers.NODES,
    *diffusers_text.NODES,
    *diffusers_vae.NODES,
    *model.NODES,
    *guidance.NODES,
    *solver.NODES,
    *state.NODES,
    *noise.NODES,
    *images.NODES,
    *inspect.NODES,
)
