"""The nodes: widgets in, engine values out. No mathematics here."""

from . import denoiser, guidance, images, noise, schedule, solver

NODES = (
    *schedule.NODES,
    *denoiser.NODES,
    *guidance.NODES,
    *solver.NODES,
    *noise.NODES,
    *images.NODES,
)
