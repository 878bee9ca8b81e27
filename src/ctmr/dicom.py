"""DICOM CT and MR series -> a volume in HU or MR units: which files make a series, and in which order."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset

from ctmr.dicom_checks import affine_of, check_file, check_series, is_localizer
from ctmr.dicom_file import hashed, is_dicom, read_header, require, text_of
from ctmr.dicom_pixels import read_units
from ctmr.errors import DataError
from ctmr.volume import Modality, Volume

__all__ = ["Series", "find_dicom", "is_dicom", "read_series"]

MAX_FILES = 20_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Series:
    """The single-frame files of one CT or MR series, sorted along the slice normal."""

    headers: tuple[Dataset, ...]
    """One per slice, K ascending: the tags of `dicom_file.PATIENT`, `STUDY`, `PLACE` and the source's UIDs; no pixels."""
    volume: Volume
    """I runs along a row (column index), J down a column (row index), K with the slices; HU or MR units."""
    even: bool
    """False if the slices lie unevenly, which is read only if asked for: K of the affine is then a mean."""
    notes: tuple[str, ...]
    """What was left out, without names or identifiers."""

    @property
    def patient(self) -> str | None:
        """A short hash of PatientID (0010,0020), never the ID itself; None where it is empty."""
        identity = text_of(self.headers[0], "PatientID").strip()
        return hashed(identity) if identity else None


def find_dicom(folder: Path) -> list[Path]:
    """The DICOM files of a folder, not of its sub-folders, sorted by the bytes of their names."""
    return _find(folder)[0]


def read_series(folder: Path, *, irregular: bool = False) -> Series:
    """Read the one CT or MR series of a folder.

    Slices are sorted by ImagePositionPatient (0020,0032) along the normal, never by name or InstanceNumber; a tilted
    gantry gives a sheared affine, nothing is resampled. PixelPaddingValue (0028,0120) becomes -1024 HU in CT, 0 in MR.

    Args:
        folder: Single-frame files of one series; localizers are left out.
        irregular: Read slices that lie unevenly too, see `Series.even`.

    Raises:
        DataError: If a file is damaged or of a kind that is not read, or there is not exactly one series.
        SafetyError: If patients, geometry or units are missing, contradictory or irregular.
    """
    paths, others = _find(folder)
    found = [read_header(path) for path in paths]
    images = [image for image in found if not is_localizer(image)]
    notes = []
    if len(found) > len(images):
        notes.append(f"{len(found) - len(images)} localizer images left out")
    if others:
        notes.append(f"{others} files that are not DICOM left out")
    require(bool(images), "expected a DICOM series: found no image", folder, "choose its folder")
    for image in images:
        check_file(image)
    check_series(images, folder)
    slices = sorted(images, key=lambda image: image.along(images[0].normal))
    affine, even = affine_of(slices, folder, irregular)
    modality: Modality = "ct" if slices[0].values["Modality"] == "CT" else "mr"
    rows, columns = slices[0].values["Rows"], slices[0].values["Columns"]
    array = np.empty((len(slices), rows, columns), np.float32)  # (K, rows, columns)
    for k, image in enumerate(slices):
        array[k] = read_units(image)
    if any(image.values.get("BurnedInAnnotation") == "YES" for image in slices):
        logger.warning("BurnedInAnnotation (0028,0301) is YES: names may stand in the pixels")
    volume = Volume(array.transpose(2, 1, 0), affine, modality)  # (I, J, K)
    return Series(tuple(image.header for image in slices), volume, even, tuple(notes))


def _find(folder: Path) -> tuple[list[Path], int]:
    """The DICOM files of a folder, and the number of other files but hidden ones and DICOMDIR."""
    try:
        entries = sorted(folder.iterdir(), key=lambda path: bytes(path))
    except OSError as error:
        raise DataError(
            f"expected a folder: found {error.strerror}", file=folder, fix="give a folder"
        ) from error
    files = [path for path in entries if path.is_file()]
    what = f"expected at most {MAX_FILES} files: found {len(files)}"
    require(len(files) <= MAX_FILES, what, folder, "keep one series in a folder")
    dicom = [path for path in files if is_dicom(path)]
    shown = [path for path in files if path.name[0] != "." and path.name.upper() != "DICOMDIR"]
    return dicom, len(set(shown) - set(dicom))
