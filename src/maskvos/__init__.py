"""Unsupervised video object segmentation: the main moving object of a video, with no click and no first-frame mask."""

__version__ = "0.1.0"
