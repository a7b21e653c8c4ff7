"""Running an experiment: the loop, its checkpoints, its records and what it publishes."""
