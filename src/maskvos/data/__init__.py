"""Reading, augmenting and loading videos."""

import os

# albumentations looks on the network for a newer version of itself when it is imported, which is no business of a
# training run; the variable must be set before that import.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
