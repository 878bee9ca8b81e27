"""Volume files as other programs write them: SimpleITK (.mha, .nrrd, .mhd, .nhdr) and nibabel (.mgz, .mgh)."""

import gzip
import struct
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK

from support.nifti_files import affine_of, noise


def foreign_file(
    path: Path,
    array: np.ndarray | None = None,
    affine: np.ndarray | None = None,
    *,
    compressed: bool = True,
) -> Path:
    """A file of (I, J, K) voxels with an affine, RAS+, by the library for its suffix."""
    array = noise() if array is None else array
    affine = affine_of(degrees=20) if affine is None else affine
    if path.suffix in (".mgz", ".mgh"):
        nib.save(nib.MGHImage(array, affine), path)
        return path
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    sides = np.linalg.norm(lps[:3, :3], axis=0)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing(sides.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / sides).ravel().tolist())
    SimpleITK.WriteImage(image, str(path), compressed)
    return path


def seen_by_others(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (I, J, K) and affine, RAS+, as the same libraries read them."""
    if path.suffix in (".mgz", ".mgh"):
        content = path.read_bytes()
        packed = path.suffix == ".mgz"
        image = nib.MGHImage.from_bytes(gzip.decompress(content) if packed else content)
        return np.asarray(image.dataobj), image.affine
    image = SimpleITK.ReadImage(str(path))
    array = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)
    corners = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    places = [image.TransformContinuousIndexToPhysicalPoint(tuple(map(float, c))) for c in corners]
    lps = np.eye(4)
    lps[:3, 3] = places[0]
    lps[:3, :3] = (np.array(places[1:]) - places[0]).T
    return array, np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


def changed(path: Path, old: bytes, new: bytes) -> Path:
    """The file with a piece of its bytes, which is there once, replaced."""
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    return path


def bomb(suffix: str, sides: tuple[int, int, int], zeros: int) -> bytes:
    """A file that says it holds so many voxels, and inflates to so many zeros."""
    shape = " ".join(map(str, sides))
    if suffix == ".mha":
        head = (
            "ObjectType = Image\nNDims = 3\nBinaryData = True\nCompressedData = True\n"
            f"TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 1 1 1\n"
            f"DimSize = {shape}\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
        )
        return head.encode() + zlib.compress(bytes(zeros))
    if suffix == ".nrrd":
        head = (
            f"NRRD0004\ntype: uchar\ndimension: 3\nspace: LPS\nsizes: {shape}\nencoding: gzip\n"
            "space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n\n"
        )
        return head.encode() + gzip.compress(bytes(zeros))
    head = struct.pack(">7ih12f", 1, *sides, 1, 0, 0, 1, 1, 1, 1, -1, 0, 0, 0, 0, -1, 0, 1, 0)
    return gzip.compress(head.ljust(284, b"\0") + bytes(zeros))
