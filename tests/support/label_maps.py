"""Label maps of round heads, as `ctmr fetch anatomies` brings those of real ones."""

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np


def write_map(
    path: Path, numbers: Sequence[int] = (511, 507, 515, 24, 3, 2), side: int = 110
) -> Path:
    """A round head of 50 mm in the numbers of the label maps, stored left to right reversed."""
    at = np.indices((side, side, side)) - side // 2
    radius = np.sqrt((at**2).sum(axis=0))
    labels = np.zeros(radius.shape, np.int16)
    for number, outer in zip(numbers, (50, 48, 42, 37, 35, 31), strict=True):
        labels[radius < outer] = number
    labels[at[0] > 15] = np.where(labels[at[0] > 15] == 2, 7, labels[at[0] > 15])
    nib.save(nib.Nifti1Image(labels, np.diag([-1.0, 1, 1, 1])), path)
    return path
