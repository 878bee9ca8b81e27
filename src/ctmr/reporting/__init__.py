"""Numbers to figures and pages; reads no scan."""
