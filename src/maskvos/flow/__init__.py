"""Optical flow: estimated, read and written, drawn in colours, kept on disk."""
