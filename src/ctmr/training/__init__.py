"""The loop around a training step, and what survives a kill."""
