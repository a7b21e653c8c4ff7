"""Plans: the training step compiled for hardware that is not there, and what it says about a run on it."""
