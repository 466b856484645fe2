"""Nodes that sample in one step, and what goes with them."""

CATEGORY = "Sampling Kit/sample"
