"""Nodes that fit a solver to a model."""
