"""Datasets, one per module: a function of the module's name that returns a list of videos."""
