"""Classifiers of noisy pictures, for classifier guidance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...embedded import trained
from ...schedulers.denoiser import Classifier, Mixture
from ...schedulers.path import Path
from ...schedulers.settings import Settings
from .. import host
from ..denoiser.embedded import MixtureOfGaussians, OneGaussian
from ..host import io
from ..ui.inputs import choice, chosen
from ..ui.wire_types import ClassifierType


@dataclass(frozen=True)
class TrainedClassifier(Settings):
    """A small network trained on noisy postcards, 32×32: a classifier for any denoiser of them."""

    def build(self, path: Path) -> Classifier:
        return trained.classifier(path)


KINDS: dict[str, type[MixtureOfGaussians | OneGaussian | TrainedClassifier]] = {
    "mixture": MixtureOfGaussians,
    "gaussian": OneGaussian,
    "network": TrainedClassifier,
}


@dataclass(frozen=True, eq=False)
class Posterior:
    """CLASSIFIER: p(class | x, σ) of a model; its path is the guided model's host path.

    In float64 where the device has it: the rule multiplies the gradient by σ², which at σ = 80 makes
    errors of 0.1 from what float32 leaves of the differences between a mixture's logits.
    """

    model: Mixture | Classifier

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Logits [B, K], differentiable in x [B, …]."""
        dtype = torch.float32 if x.device.type == "mps" else torch.float64
        return self.model.to(x.device, dtype).class_logits(x.to(dtype), sigma)


def posterior(build: Callable[[Path], Any], path: Path) -> Posterior:
    """The classifier of ``build(path)``; its tensors can take part in gradients even if the host's mode is inference."""
    with torch.inference_mode(False), torch.no_grad():
        return Posterior(build(path).requires_grad_(False))


class EmbeddedClassifier(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitEmbeddedClassifier",
            display_name="Embedded Classifier",
            category="Sampling Kit/guidance",
            description="A classifier of noisy postcards that needs no download. 'mixture' and 'gaussian' give the exact "
            "probability of each of the ten classes under a Gaussian mixture, at every noise level: with the Embedded Denoiser "
            "of the same kind and settings, Classifier Guidance of scale 1 turns the unconditional prediction into the "
            "conditional one. 'network' is a small trained classifier, for Embedded Denoiser 'network' and 'patches' at 32×32.",
            search_aliases=["classifier guidance", "noise-conditional classifier", "class posterior"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL that is guided; its noise levels are the classifier's."),
                choice("kind", KINDS, "Which classifier; its size must be the latent's."),
            ],
            outputs=[ClassifierType.Output(display_name="classifier", tooltip="For Classifier Guidance.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, model: Any, kind: dict[str, Any] | None = None) -> Any:
        build = chosen("kind", KINDS, kind).build
        return io.NodeOutput(posterior(build, host.models.schedule_of(model).path.host))


NODES = (EmbeddedClassifier,)
