"""Segmenting videos: engines, the prediction pipeline, and what is written."""
