"""Files to scans and back."""
