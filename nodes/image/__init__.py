"""Nodes for pictures and latents."""
