"""Nodes that make a SAMPLER, and those that keep its state."""
