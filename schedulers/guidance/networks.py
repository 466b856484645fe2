"""The branches of a guidance chain at the networks: one call of each network for all that go together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ..denoiser.many import Network, many
from .autograd import differentiable, ordinary
from .base import COND


class BranchNetworks:
    """D of named branches at one state.

    ``networks``: branch → its network D(x, σ, condition); branches without one are at ``cond``'s. Branches
    of one network share its calls where their conditions have the same sizes (:func:`..denoiser.many.many`).
    ``in_parts``: a network as it is called where no gradient is asked for, for batches that do not fit
    into memory. With gradients parts would save nothing: the graph holds them all.
    """

    def __init__(
        self, networks: Mapping[str, nn.Module], in_parts: Callable[[nn.Module], Network]
    ) -> None:
        self.networks = networks
        self.calls = {network: in_parts(network) for network in networks.values()}

    def __call__(
        self, x: Tensor, sigma: float | Tensor, conditions: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """D [B, …] of x [B, …] by branch, from the branches' conditions (see ``denoiser/many.py``)."""
        at: dict[nn.Module, list[str]] = {}
        for name in conditions:
            at.setdefault(self.networks.get(name, self.networks[COND]), []).append(name)
        out: dict[str, Tensor] = {}
        for network, names in at.items():
            rows = [conditions[name] for name in names]
            out.update(zip(names, self._evaluate(network, x, sigma, rows), strict=True))
        return out

    def _evaluate(
        self, network: nn.Module, x: Tensor, sigma: float | Tensor, rows: list[Any]
    ) -> list[Tensor]:
        if not x.requires_grad:
            return many(self.calls[network], x, sigma, rows)
        with differentiable(network):
            return many(network, x, sigma, ordinary(rows))
