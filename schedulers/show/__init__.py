"""Pictures of runs, models and results. matplotlib is imported only in this folder, when something is drawn."""
