"""Reports, plots, comparisons and sweep tables."""
