"""The engine: schedules, denoisers, guidance and solvers. Imports torch and numpy only."""
