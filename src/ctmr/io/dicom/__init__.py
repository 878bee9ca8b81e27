"""A DICOM series in, a derived series out."""
