"""Preparation for ComfyUI's proposed V2 API for custom nodes: solvers as closures of kind ``custom_sampler``.

No node uses this, and no host calls it yet; docs/hosts.md says what was read and what is missing. It needs the engine
only.
"""

from .closure import Broker, Closure, custom_sampler

__all__ = ["Broker", "Closure", "custom_sampler"]
