"""A batch larger than memory: the denoiser takes as many images at a time as fit.

D acts on each image by itself, so the parts of a batch give the images of the whole one (to the bit where
the device's kernels do not sum in another order for another batch size); only the network is called in parts, the solver still
sees the whole batch. How many images fit is measured while the first three are evaluated: what one image
needs above none, and two above one, against what is free.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

log = logging.getLogger(__name__)

MARGIN = 0.8  # of the free memory that a call may take


class Memory(Protocol):
    """Bytes of a device: free now, and the most that a call takes above what is in use before it."""

    def free(self) -> int: ...
    def peak(self, call: Callable[[], Any]) -> int: ...


@dataclass(frozen=True)
class CudaMemory:
    device: torch.device

    def free(self) -> int:
        """What the driver has free and what PyTorch keeps for reuse."""
        there, _ = torch.cuda.mem_get_info(self.device)
        kept = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return there + kept

    def peak(self, call: Callable[[], Any]) -> int:
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        call()
        return torch.cuda.max_memory_allocated(self.device) - before


class InParts:
    """``network``(x, σ, given) in parts of ``limit`` images, or of as many as ``memory`` has room for.

    Without both the whole batch is one call. Out of memory all the same: half as many from then on,
    which is said once; with one image at a time it is an error.
    """

    def __init__(
        self, network: Callable[..., Tensor], limit: int | None = None, memory: Memory | None = None
    ) -> None:
        self.network, self.size, self.memory = network, limit, memory

    def __call__(self, x: Tensor, sigma: float | Tensor, conditions: Any = None) -> Tensor:
        parts: list[Tensor] = []
        if self.size is None and self.memory is not None and len(x) > 2:
            parts = self._measure(self.memory, x, sigma, conditions)
        while (start := sum(map(len, parts))) < len(x):
            end = min(start + (self.size or len(x)), len(x))
            made = self._try(x, sigma, conditions, slice(start, end))
            if made is not None:
                parts.append(made)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _try(self, x: Tensor, sigma: float | Tensor, conditions: Any, part: slice) -> Tensor | None:
        """D of a part of x, or None if the memory was too small for it and ``size`` is smaller now."""
        size = part.stop - part.start
        try:
            if size == len(x):
                return self.network(x, sigma, conditions)
            return self._part(x, sigma, conditions, part)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        if x.device.type == "cuda":  # outside of the except, which holds the failed call's tensors
            torch.cuda.empty_cache()
        self.size = (size + 1) // 2
        log.warning(
            "Sampling Kit: out of memory with %d images at a time: now %d; the images stay the same",
            size,
            self.size,
        )
        return None

    def _part(self, x: Tensor, sigma: float | Tensor, conditions: Any, part: slice) -> Tensor:
        level = sigma[part] if isinstance(sigma, Tensor) and len(sigma) == len(x) > 1 else sigma
        return self.network(x[part], level, rows(conditions, part, len(x)))

    def _measure(
        self, memory: Memory, x: Tensor, sigma: float | Tensor, conditions: Any
    ) -> list[Tensor]:
        """D of the first three images, in calls of one and two whose peaks tell how many fit (``size``).

        They are parts like others: no image is evaluated twice. Only the first if there is no room for two.
        """
        parts: list[Tensor] = []

        def peak(part: slice) -> int:
            def call() -> None:
                made = self._try(x, sigma, conditions, part)
                parts.extend([] if made is None else [made])

            return memory.peak(call)

        one, two = peak(slice(0, 1)), peak(slice(1, 3))
        if len(parts) < 2:
            return parts
        each = max(two - one, 1)
        fits = int((MARGIN * memory.free() - (one - each)) // each)
        self.size = max(fits, 1)
        if fits < len(x):
            log.info("Sampling Kit: %d of %d images at a time fit into memory", self.size, len(x))
        return parts


def rows(conditions: Any, part: slice, batch: int) -> Any:
    """The rows of a condition (a tensor, tensors by name or None); what all images share stays."""
    if isinstance(conditions, dict):
        return {name: rows(value, part, batch) for name, value in conditions.items()}
    return (
        conditions[part]
        if isinstance(conditions, Tensor) and len(conditions) == batch
        else conditions
    )
