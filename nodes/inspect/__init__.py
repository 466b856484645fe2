"""Nodes that show what a run, a model or a schedule does."""
