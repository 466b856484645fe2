"""Whether two batches look like samples of one distribution."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from torch import Tensor

from ...schedulers.measure import plain
from ...schedulers.measure.two_samples import compare
from ..host import io
from ..ui.payload import report_on_page
from .difference import CATEGORY


class Distances(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        either = [io.Image, io.Latent]
        return io.Schema(
            node_id="SamplingKitDistances",
            display_name="Distances",
            category=CATEGORY,
            description="How far apart two batches are as samples of distributions, not picture by picture: sliced "
            "Wasserstein, energy distance, MMD² (about 0, also below, for equal distributions), and the Fréchet distance "
            "of features. p is how often batches shuffled together have as large an energy distance: below 0.05 the "
            "difference is hardly chance. The numbers depend on how many pictures there are: compare those of batches of "
            "one size. The random features need no download and are not Inception's, so their Fréchet distance is no "
            "FID to quote.",
            search_aliases=["FID", "Frechet", "MMD", "KID", "sliced Wasserstein", "energy distance", "metrics", "two-sample test"],
            is_output_node=True,
            inputs=[
                io.MultiType.Input("a", types=either, tooltip="IMAGE or LATENT; 2 or more, better 50 or more."),
                io.MultiType.Input("b", types=either, tooltip="The same type and picture size as a."),
                io.Latent.Input("features_a", optional=True, tooltip="Features of a from another network, a row per picture, for the Fréchet distance."),
                io.Latent.Input("features_b", optional=True, tooltip="Features of b, with features_a."),
                io.Int.Input("directions", default=512, min=1, max=100000, optional=True, tooltip="Random directions of sliced Wasserstein."),
                io.Int.Input("shuffles", default=200, min=0, max=10000, optional=True, tooltip="Shuffles behind p, which is at least 1/(shuffles + 1); 0: no p."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, optional=True, tooltip="Of directions and shuffles."),
            ],
            outputs=[
                io.Float.Output(display_name="energy", tooltip="The energy distance."),
                io.String.Output(display_name="text", tooltip="All of them, and notes; also shown by Preview as Text."),
                io.String.Output(display_name="json", tooltip="The same for programs; null where a distance could not be measured."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, a: Any, b: Any, features_a: Any = None, features_b: Any = None, directions: int = 512,
        shuffles: int = 200, seed: int = 0,
    ) -> Any:  # fmt: skip
        if isinstance(a, dict) != isinstance(b, dict):
            raise ValueError("a and b: connect two IMAGEs or two LATENTs, not one of each")
        x, y = batch(a), batch(b)
        features = None
        if (features_a is None) != (features_b is None):
            raise ValueError("features_a and features_b: connect both or none")
        if features_a is not None:
            features = features_a["samples"], features_b["samples"]
            for name, rows, of in zip("ab", features, (x, y), strict=True):
                if len(rows) != len(of):
                    raise ValueError(f"features_{name}: {len(rows)} rows for {len(of)} pictures")
        try:
            found = compare(x, y, features, directions, shuffles, seed)
        except ValueError as error:
            raise ValueError(f"a and b: {error}") from None
        told = json.dumps(plain(dataclasses.asdict(found)), allow_nan=False)
        return io.NodeOutput(found.energy, found.text(), told, ui=report_on_page(found.text()))


def batch(value: Any) -> Tensor:
    """[B, C, …] of a LATENT, or of an IMAGE in [−1, 1]."""
    if isinstance(value, dict):
        return value["samples"]
    return value[..., :3].movedim(-1, 1) * 2 - 1


NODES = (Distances,)
