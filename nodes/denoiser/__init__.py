"""Nodes that make a MODEL, its conditions and its VAE."""
