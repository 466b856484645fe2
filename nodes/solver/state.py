"""Nodes that carry the state of a run from one SamplerCustomAdvanced to another, or to a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from ...schedulers.points import require_run
from ...schedulers.settings import Settings
from ...schedulers.solver import Solver
from ...schedulers.solver.base import Around
from ...schedulers.split import Handover, Part, load, save
from .. import host
from ..host import io
from ..ui.file_names import find_file, new_file, refusal, split_prefix, stamp
from ..ui.payload import report_on_page
from ..ui.wire_types import SamplerStateType

CATEGORY = "Sampling Kit/solver/state"
SUFFIX = ".safetensors"
STATE = "SAMPLER_STATE, filled while SamplerCustomAdvanced runs with this sampler"


def plain_solver(sampler: Any, input: str = "sampler") -> Solver:
    """The solver of a SAMPLER of ours. Raises ValueError naming ``input`` for any other."""
    solver = host.runs.solver_of(sampler)
    if isinstance(solver, Solver):
        return solver
    raise ValueError(
        f"{input}: connect a solver node of the Sampling Kit itself, "
        + (
            "not Keep State or Resume State"
            if isinstance(solver, Part)
            else "not another sampler, nor Trace or another pack's sampler around it: put those around the sampler that "
            "comes out of this node"
        )
    )


S = TypeVar("S", bound=Settings)


def run_inside(around: Callable[[Solver, S], Around], sampler: Any, settings: S) -> Any:
    """The node output of a SAMPLER that runs the solver of ``sampler`` in its own way. Raises ValueError for one that does so too."""
    solver = plain_solver(sampler)
    if isinstance(solver, Around):
        raise ValueError(
            f"sampler: {solver.title} cannot run inside {settings.title}; connect the solver that comes before it"
        )
    return io.NodeOutput(host.runs.make_sampler(around(solver, settings)))


class KeepState(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitKeepState",
            display_name="Keep State",
            category=CATEGORY,
            description="For the first part of a run that is taken in parts: the sampler leaves what the next part needs "
            "besides the latent, so that Resume State goes on bit for bit as in one go (the history of multistep solvers, "
            "and the place in the noise stream). SamplerCustomAdvanced gets the beginning of SIGMAS (SplitSigmas, "
            "high_sigmas), this node all of them. One Keep State per SamplerCustomAdvanced: the state on the wire is that of "
            "the sampler's last run.",
            search_aliases=["split run", "resume", "pause", "checkpoint", "SplitSigmas", "KSampler Advanced"],
            inputs=[
                io.Sampler.Input("sampler", tooltip="A solver of the Sampling Kit."),
                io.Sigmas.Input("sigmas", tooltip="Of the whole run."),
            ],
            outputs=[
                io.Sampler.Output(display_name="sampler", tooltip="For the first SamplerCustomAdvanced."),
                SamplerStateType.Output(display_name="state", tooltip=f"For Resume State or Save State: {STATE}."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, sampler: Any, sigmas: Tensor) -> Any:
        require_run(sigmas)
        state = Handover()
        part = Part(plain_solver(sampler), state, tuple(sigmas.tolist()))
        return io.NodeOutput(host.runs.make_sampler(part), state)


class ResumeState(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitResumeState",
            display_name="Resume State",
            category=CATEGORY,
            description="For a later part of a run: goes on from a state. SamplerCustomAdvanced gets the latent of the part "
            "before, DisableNoise, and the SIGMAS that are left (SplitSigmas, low_sigmas) or the next of them. The seed is "
            "the state's. What this part leaves is on the state output, for a third part.",
            search_aliases=["split run", "continue", "resume", "SplitSigmas", "KSampler Advanced"],
            inputs=[
                io.Sampler.Input("sampler", tooltip="The solver of the first part, with the same settings."),
                SamplerStateType.Input("state", tooltip="From Keep State, Resume State or Load State."),
                io.Boolean.Input(
                    "edited", default=False, optional=True,
                    tooltip="The latent was changed in between, on purpose: it takes the place of the state's, whose history "
                    "stays. Off: a latent that is not the state's is an error.",
                ),
            ],
            outputs=[
                io.Sampler.Output(display_name="sampler", tooltip="For the next SamplerCustomAdvanced."),
                SamplerStateType.Output(display_name="state", tooltip=f"At the end of this part: {STATE}."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, sampler: Any, state: Handover, edited: bool = False) -> Any:
        after = Handover()
        part = Part(plain_solver(sampler), after, after=checked(state), edited=edited)
        return io.NodeOutput(host.runs.make_sampler(part), after)


class SaveState(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitSaveState",
            display_name="Save State",
            category=CATEGORY,
            description="Writes a state and the latent that goes with it to the output folder, as safetensors: Load State goes "
            "on from there another day, or on another machine.",
            search_aliases=["checkpoint", "pause", "save latent", "resume"],
            inputs=[
                SamplerStateType.Input("state", tooltip="From Keep State or Resume State."),
                io.Latent.Input("latent", tooltip="The output of SamplerCustomAdvanced that left this state."),
                io.String.Input(
                    "filename_prefix", default="SamplingKit/state",
                    tooltip="Start of the file name, with sub-folders; _00001_ and so on follow.",
                ),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, filename_prefix: str = "SamplingKit/state") -> bool | str:
        if filename_prefix is None:  # a link
            return True
        return refusal(lambda: split_prefix(filename_prefix, host.places.folder("output")))

    @classmethod
    def execute(
        cls, state: Handover, latent: dict[str, Any], filename_prefix: str = "SamplingKit/state"
    ) -> Any:
        stopped = checked(state).get("Save State")
        if getattr(latent["samples"], "is_nested", False):
            raise ValueError("latent: of several parts (video and its sound) cannot be saved")
        tensors = {
            name: latent[name] for name in ("samples", "noise_mask") if latent.get(name) is not None
        }
        output = host.places.folder("output")
        file = new_file(filename_prefix, output, SUFFIX, lambda part: save(stopped, part, tensors))
        entry = {
            "filename": file.name,
            "subfolder": file.parent.relative_to(output).as_posix().removeprefix("."),
            "type": "output",
        }
        name = file.relative_to(output).as_posix()
        return io.NodeOutput(
            ui={"files": [entry], **report_on_page(f"{name}: {stopped.describe()}")}
        )


class LoadState(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitLoadState",
            display_name="Load State",
            category=CATEGORY,
            description="Reads a state and its latent that Save State wrote.",
            search_aliases=["checkpoint", "load latent", "resume", "continue"],
            inputs=[
                io.String.Input(
                    "file", default="",
                    tooltip="Name in the output folder, such as SamplingKit/state_00001_.safetensors; ending in [input]: in "
                    "the input folder.",
                ),
            ],
            outputs=[
                SamplerStateType.Output(display_name="state", tooltip="For Resume State."),
                io.Latent.Output(display_name="latent", tooltip="For the SamplerCustomAdvanced that goes on."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, file: str = "") -> bool | str:
        return True if file is None else refusal(lambda: state_file(file))

    @classmethod
    def fingerprint_inputs(cls, file: str = "") -> Any:
        return stamp(state_file(file))

    @classmethod
    def execute(cls, file: str = "") -> Any:
        stopped, latent = load(state_file(file))
        return io.NodeOutput(Handover(stopped), latent)


def state_file(name: str) -> Any:
    """The file of a Load State node. Raises ValueError when it is not in its folder."""
    kind = "input" if name.endswith("[input]") else "output"
    return find_file(name, host.places.folder(kind), "state", kind)


def checked(state: Any) -> Handover:
    if not isinstance(state, Handover):
        raise TypeError(f"state: expected a SAMPLER_STATE, got {type(state).__name__}")
    return state


NODES = (KeepState, ResumeState, SaveState, LoadState)
