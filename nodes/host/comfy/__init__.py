"""ComfyUI's own objects. Nothing else in the pack imports comfy."""
