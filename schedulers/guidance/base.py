"""Guidance: an ordered chain of rules that turn branch predictions into one D, all in x0 space.

A branch is one prediction of a network at the same x and σ: ``cond``, ``uncond``, later ``weak`` and
others. A rule says which branches it needs at a noise level (so one that does nothing there costs no
network call) and how it changes D. The chain starts from D = cond and applies the rules in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..settings import Settings

COND, UNCOND = "cond", "uncond"


@dataclass(frozen=True)
class Rule(Settings):
    """Base class of guidance rules."""

    def branches(self, sigma: float) -> frozenset[str]:
        """Names of the branches :meth:`apply` reads at ``sigma``; empty where the rule is off."""
        raise NotImplementedError

    def apply(self, d: Tensor, x: Tensor, sigma: float, preds: Mapping[str, Tensor]) -> Tensor:
        """The new D [B, …] from the chain's D so far and the branch predictions. Never in place."""
        raise NotImplementedError


@dataclass(frozen=True)
class Guidance:
    """A chain of rules; the empty chain is the conditional prediction itself."""

    rules: tuple[Rule, ...] = ()

    def then(self, rule: Rule) -> Guidance:
        return Guidance((*self.rules, rule))

    def branches(self, sigma: float) -> frozenset[str]:
        """Branches the whole chain needs at ``sigma`` (SIGMAS units); always includes ``cond``."""
        return frozenset({COND}).union(*(rule.branches(sigma) for rule in self.rules))

    def combine(self, x: Tensor, sigma: float, preds: Mapping[str, Tensor]) -> Tensor:
        """One D from the predictions of :meth:`branches`. Rules that are off are skipped."""
        d = preds[COND]
        for rule in self.rules:
            if rule.branches(sigma):
                d = rule.apply(d, x, sigma, preds)
        return d
