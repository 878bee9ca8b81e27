"""A model measured on scans it has not seen."""
