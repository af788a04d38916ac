"""Reports, plots, comparisons and sweep tables."""

import logging

# Before it is imported: it would say where its cache lies if the home folder is read-only.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
