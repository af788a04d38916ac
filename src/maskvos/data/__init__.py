"""Datasets, transforms, samplers and data loaders."""

import os

# Disable the online version check of albumentations; must be set before it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
