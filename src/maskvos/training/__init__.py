"""Training: the LightningModule, losses, optimiser, schedules, EMA, resume, loggers and callbacks."""
