"""The one node that samples by itself."""
