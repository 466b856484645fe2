"""Run a ComfyUI workflow without ComfyUI. Nothing heavy is imported here."""
