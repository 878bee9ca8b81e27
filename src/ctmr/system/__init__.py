"""The machine: whole files, memory, workers, random numbers."""
