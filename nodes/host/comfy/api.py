"""ComfyUI's node API, which everything of a node's declaration is made from."""

from comfy_api.latest import ComfyExtension, io

__all__ = ["ComfyExtension", "io"]
