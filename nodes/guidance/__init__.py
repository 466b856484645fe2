"""Nodes that make GUIDANCE, and what its rules need."""
