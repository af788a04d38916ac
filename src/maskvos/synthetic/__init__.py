"""Procedural clips with exact masks and optical flow."""
