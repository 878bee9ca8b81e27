"""From a data folder to training samples."""
