"""The smallest objects that mean what ComfyUI's mean, for the headless runner."""
