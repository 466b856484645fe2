"""The nodes: widgets in, engine values out. No mathematics here."""

from .denoiser import embedded as denoiser
from .denoiser import folder_vae as diffusers_vae
from .denoiser import load_diffusers as diffusers
from .denoiser import settings as model
from .denoiser import text_encode as diffusers_text
from .fit import fit_solver as fit
from .fit import fitted_solver as fitted
from .fit import train_predictor as predictor
from .guidance import embedded_classifier as classifier
from .guidance import measurement
from .guidance import rules as guidance
from .image import images
from .inspect import compare_solvers as compare
from .inspect import difference as inspect
from .inspect import distances, idempotence, trace
from .inspect import guidance_probe as probe
from .inspect import log_likelihood as likelihood
from .inspect import schedule_plots as plots
from .noise import per_image as noise
from .schedule import schedules as schedule
from .solver import solvers as solver
from .solver import state

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
    *fit.NODES,
    *fitted.NODES,
    *predictor.NODES,
    *noise.NODES,
    *images.NODES,
    *inspect.NODES,
    *plots.NODES,
    *trace.NODES,
    *compare.NODES,
    *likelihood.NODES,
    *distances.NODES,
    *idempotence.NODES,
)
