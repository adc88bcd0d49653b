"""The trainer: config, loop, sharding, checkpoints, evaluation, report."""
