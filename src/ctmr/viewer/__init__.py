"""`ctmr view`: a local page on which a scan and its translation stand side by side, and on which trainings are watched.

The server imports no numpy, torch, pydicom or nibabel. All that reads a scan is in `child`, a process of one job.
"""
