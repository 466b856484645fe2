"""Writes what is generated from the nodes: translations and help pages. Not needed to run the pack."""
