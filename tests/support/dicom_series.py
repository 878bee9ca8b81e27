"""A small DICOM series of random values, and what spoils it; for the tests of all that reads one."""

import numpy as np
from pydicom import dcmread

from ctmr.imaging.volume import Volume
from ctmr.io.dicom.series import find_dicom
from ctmr.io.dicom.writer import phantom_series

SHAPE = (12, 10, 6)  # columns, rows, slices


def turned(degrees_x, degrees_z=0.0):
    """A rotation about x, then z."""
    x, z = np.radians([degrees_x, degrees_z])
    about_x = [[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]]
    about_z = [[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]]
    return np.array(about_z) @ np.array(about_x)


def affine(rotation=None, tilt=0.0, spacing=(0.9, 1.1, 2.5)):
    """RAS+: I to the left, J to the back and K up, as of an axial series; then turned, K tilted about x."""
    sides = np.diag([-spacing[0], -spacing[1], spacing[2]])
    sides[1, 2] = np.tan(np.radians(tilt)) * spacing[2]
    matrix = np.eye(4)
    matrix[:3, :3] = (np.eye(3) if rotation is None else rotation) @ sides
    matrix[:3, 3] = [40.25, 31.5, -22.125]
    return matrix


def make(folder, modality="ct", matrix=None, shape=SHAPE, name="P1", study="S1"):
    """Write a small series of random values, and return its volume."""
    rng = np.random.default_rng(5)
    low = -1000 if modality == "ct" else 0
    array = rng.integers(low, 1500, shape).astype(np.float32)
    volume = Volume(array, affine() if matrix is None else matrix, modality)
    phantom_series(folder, volume, name=name, study=study)
    return volume


def edit(path, change=None, **tags):
    """Change tags of a file; None deletes."""
    image = dcmread(path)
    for keyword, value in tags.items():
        if value is None:
            del image[keyword]
        elif keyword.startswith("PixelPadding"):
            image.add_new(keyword, "SS" if image.PixelRepresentation else "US", value)
        else:
            setattr(image, keyword, value)
    if change is not None:
        change(image)
    image.save_as(path)


def edit_all(folder, change=None, **tags):
    for path in find_dicom(folder):
        edit(path, change, **tags)


def one(folder):
    return find_dicom(folder)[0]
