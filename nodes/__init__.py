"""The nodes: widgets in, engine values out. No mathematics here."""

from . import denoiser, guidance, images, inspect, model, noise, schedule, solver, state

NODES = (
    *schedule.NODES,
    *denoiser.NODES,
    *model.NODES,
    *guidance.NODES,
    *solver.NODES,
    *state.NODES,
    *noise.NODES,
    *images.NODES,
    *inspect.NODES,
)
