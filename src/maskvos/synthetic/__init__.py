"""Procedural video clips with exact masks and optical flow."""
