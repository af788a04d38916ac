"""One disk layout per module: each function has the module's name and returns a list of videos."""
