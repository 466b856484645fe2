"""The nodes: widgets in, engine values out. No mathematics here."""

from . import (
    classifier,
    denoiser,
    diffusers,
    diffusers_text,
    diffusers_vae,
    guidance,
    images,
    inspect,
    measurement,
    model,
    noise,
    probe,
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
    *classifier.NODES,
    *measurement.NODES,
    *probe.NODES,
    *solver.NODES,
    *state.NODES,
    *noise.NODES,
    *images.NODES,
    *inspect.NODES,
)
