"""Weights on disk: the bundled ones, checkpoints, and exported networks."""
