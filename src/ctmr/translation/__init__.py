"""A model at work on a scan or on a folder of scans."""
