"""Nodes that cut and join SIGMAS."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...schedulers import level_algebra as algebra
from ..host import io
from ..ui.inputs import choice, chosen
from ..ui.wire_types import NoiseScheduleType

CATEGORY = "Sampling Kit/schedule"
TIMESTEPS = "Only for timesteps: the schedule that they are of."


def aliases(table: Any) -> list[str]:
    return sorted({alias for kind in table.values() for alias in kind.aliases} | {"sigmas"})


class EditLevels(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitEditLevels",
            display_name="Edit Levels",
            category=CATEGORY,
            description="Changes the noise levels of a run: resamples them to any number of steps, begins at a noise level (in "
            "place of denoise), or keeps the part between two levels. New levels lie on the monotone cubic through log σ.",
            search_aliases=aliases(algebra.EDITS),
            inputs=[
                io.Sigmas.Input("sigmas", tooltip="Falling levels, from Steps or any other node."),
                choice("edit", algebra.EDITS, "What is done with the levels."),
                NoiseScheduleType.Input("noise_schedule", optional=True, tooltip=TIMESTEPS),
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas", tooltip="For SamplerCustomAdvanced.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, sigmas: Tensor, edit: Any = None, noise_schedule: Any = None) -> Any:
        kind = chosen("edit", algebra.EDITS, edit)
        levels = kind.of(levels_of(sigmas), noise_schedule)
        return io.NodeOutput(tensor(levels))


class SplitAtLevel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitSplitAtLevel",
            display_name="Split at Level",
            category=CATEGORY,
            description="Splits a run where its steps pass a noise level: for two models, one for high and one for low noise "
            "(Wan 2.2), or a base model and a refiner. Each step belongs to the part where it starts, as in the models' own "
            "pipelines. Keep State and Resume State carry a solver's history across; a second solver may take the low part.",
            search_aliases=[*aliases(algebra.BOUNDARIES), "SplitSigmas"],
            inputs=[
                io.Sigmas.Input("sigmas", tooltip="Of the whole run, falling."),
                choice("boundary", algebra.BOUNDARIES, "Where the models change."),
                NoiseScheduleType.Input("noise_schedule", optional=True, tooltip=TIMESTEPS),
            ],
            outputs=[
                io.Sigmas.Output(display_name="high_sigmas", tooltip="For the first SamplerCustomAdvanced, with the high-noise model."),
                io.Sigmas.Output(display_name="low_sigmas", tooltip="For the second, with the low-noise model and DisableNoise."),
                io.Int.Output(display_name="step", tooltip="Steps of the high part."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, sigmas: Tensor, boundary: Any = None, noise_schedule: Any = None) -> Any:
        kind = chosen("boundary", algebra.BOUNDARIES, boundary)
        cut = kind.cut(levels_of(sigmas), noise_schedule)
        return io.NodeOutput(sigmas[: cut + 1], sigmas[cut:], cut)


class JoinLevels(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitJoinLevels",
            display_name="Join Levels",
            category=CATEGORY,
            description="One run of two: the levels of the first, and after them those of the second, which begins where the "
            "first ends, or below.",
            search_aliases=["concat sigmas", "merge sigmas", "sigmas"],
            inputs=[
                io.Sigmas.Input("first", tooltip="The run's high part; it ends above 0."),
                io.Sigmas.Input("second", tooltip="The run's low part."),
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas", tooltip="For SamplerCustomAdvanced.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, first: Tensor, second: Tensor) -> Any:
        levels = algebra.joined(levels_of(first), levels_of(second))
        return io.NodeOutput(tensor(levels))


def levels_of(sigmas: Tensor) -> algebra.Sigmas:
    return tuple(sigmas.tolist())


def tensor(levels: algebra.Sigmas) -> Tensor:
    return torch.tensor(levels, dtype=torch.float32)


NODES = (EditLevels, SplitAtLevel, JoinLevels)
