"""Optical flow: estimators, file formats, colour coding, and an on-disk cache."""
