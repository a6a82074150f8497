"""One readable training loop: optimisers, checkpoints, exact resume, loggers."""
