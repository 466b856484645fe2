"""Nodes that make a NOISE_SCHEDULE or SIGMAS."""
