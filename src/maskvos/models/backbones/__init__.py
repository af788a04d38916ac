"""Encoders: pyramids of four maps."""
