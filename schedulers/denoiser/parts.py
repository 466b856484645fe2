"""A batch larger than memory: the denoiser takes as many images at a time as fit.

D acts on each image by itself, so the parts of a batch give the images of the whole one (to the bit where
the device's kernels do not sum in another order for another batch size); only the network is called in
parts, the solver still sees the whole batch. How many images fit is measured: what
one image needs above none, and two above one, against what is free.
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

    def __call__(self, x: Tensor, sigma: float | Tensor, given: Any = None) -> Tensor:
        if self.size is None and self.memory is not None and len(x) > 2:
            self.size = self._measured(x, sigma, given)
        while True:
            made = self._try(x, sigma, given)
            if made is not None:
                return made

    def _try(self, x: Tensor, sigma: float | Tensor, given: Any) -> Tensor | None:
        """D(x), or None if the memory was too small for it and ``size`` is smaller now."""
        size = min(self.size or len(x), len(x))
        try:
            if size == len(x):
                return self.network(x, sigma, given)
            parts = [slice(i, i + size) for i in range(0, len(x), size)]
            return torch.cat([self._part(x, sigma, given, part) for part in parts])
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

    def _part(self, x: Tensor, sigma: float | Tensor, given: Any, part: slice) -> Tensor:
        level = sigma[part] if isinstance(sigma, Tensor) and len(sigma) == len(x) > 1 else sigma
        return self.network(x[part], level, rows(given, part, len(x)))

    def _measured(self, x: Tensor, sigma: float | Tensor, given: Any) -> int:
        """How many images fit, from the peaks with one and with two."""
        assert self.memory is not None
        one, two = (
            self.memory.peak(lambda n=n: self._part(x, sigma, given, slice(0, n)))  # type: ignore[misc]
            for n in (1, 2)
        )
        each = max(two - one, 1)
        fits = int((MARGIN * self.memory.free() - (one - each)) // each)
        if fits < len(x):
            log.info(
                "Sampling Kit: %d of %d images at a time fit into memory", max(fits, 1), len(x)
            )
        return max(fits, 1)


def rows(given: Any, part: slice, batch: int) -> Any:
    """The rows of a condition (a tensor, tensors by name or None); what all images share stays."""
    if isinstance(given, dict):
        return {name: rows(value, part, batch) for name, value in given.items()}
    return given[part] if isinstance(given, Tensor) and len(given) == batch else given
