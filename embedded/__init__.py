"""Models and data that need no download: procedural pictures and denoisers built on them."""
