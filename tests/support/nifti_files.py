"""NIfTI files of random values, and what spoils them."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (5, 4, 3)


LAS, RAS = np.diag([-1, 1, 1]), np.diag([1, 1, 1])


def noise(shape: tuple[int, ...] = SHAPE, dtype: str = "i2", low: int = -1024) -> np.ndarray:
    return np.random.default_rng(1).integers(low, low + 2000, shape).astype(dtype)


def affine_of(axes: np.ndarray = LAS, degrees: float = 0.0) -> np.ndarray:
    """Voxels of 0.5 x 0.75 x 3 mm, turned around the patient's vertical, then around the left-right axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, c, -s], [0, s, c]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ axes * (0.5, 0.75, 3.0)
    affine[:3, 3] = (-31.25, 12.5, 7.0)
    return affine


def image_of(
    array: np.ndarray,
    affine: np.ndarray | None = None,
    *,
    sform: tuple[np.ndarray | None, int] | None = None,
    qform: tuple[np.ndarray | None, int] | None = None,
    kind: type = nib.Nifti1Image,
) -> nib.Nifti1Image:
    """An image whose two forms are the affine with code 1, where nothing else is said."""
    affine = affine_of() if affine is None else affine
    image = kind(array, affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(*(sform or (affine, 1)), update_affine=False)
    image.set_qform(*(qform or (affine, 1)), update_affine=False)
    return image


def content_of(array: np.ndarray | None = None, **options: object) -> bytes:
    return image_of(noise() if array is None else array, **options).to_bytes()


def file_of(folder: Path, content: bytes, name: str = "a.nii") -> Path:
    packed = name.lower().endswith(".gz") and not content.startswith(b"\x1f\x8b")
    (folder / name).write_bytes(gzip.compress(content) if packed else content)
    return folder / name
