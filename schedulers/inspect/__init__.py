"""Looking at runs and their results."""
