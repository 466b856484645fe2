"""Nodes that make NOISE."""
