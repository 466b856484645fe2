"""Fitting a solver to a model: the problem, ways to fit, and files. Results are ``solver.fitted`` tables."""
