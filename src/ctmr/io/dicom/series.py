"""DICOM CT and MR series -> a volume in HU or MR units: which files make a series, and in which order."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydicom import Dataset

from ctmr.errors import CtmrError, DataError, refuse_all
from ctmr.imaging.volume import Volume
from ctmr.io.dicom.archive import is_archive_name, unpacked
from ctmr.io.dicom.enhanced import frames_of
from ctmr.io.dicom.header import (
    COPY_AGAIN,
    SliceFile,
    hashed,
    is_dicom,
    read_header,
    require,
    start_of,
    text_of,
)
from ctmr.io.dicom.pixels import read_units
from ctmr.io.dicom.validation import affine_of, check_file, check_series, is_localizer
from ctmr.types import Modality

MAX_FILES = 20_000

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Series:
    """The slices of one CT or MR series, sorted along the slice normal."""

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
    """The DICOM files of a folder, not of its sub-folders, sorted by the bytes of their names; an archive itself."""
    return [folder] if is_archive_name(folder) and not folder.is_dir() else _find(folder)[0]


def read_series(folder: Path, *, irregular: bool = False) -> Series:
    """Read the one CT or MR series of a folder, or of a `.zip`.

    Slices are sorted by ImagePositionPatient (0020,0032) along the normal, never by name or InstanceNumber; a tilted
    gantry gives a sheared affine, nothing is resampled. PixelPaddingValue (0028,0120) becomes -1024 HU in CT, 0 in MR.

    Args:
        folder: Single-frame files of one series, or an enhanced multi-frame file of one volume; localizers are left out.
            In an archive they may lie in folders.
        irregular: Read slices that lie unevenly too, see `Series.even`.

    Raises:
        DataError: If a file is damaged or of a kind that is not read, or there is not exactly one series.
        SafetyError: If patients, geometry or units are missing, contradictory or irregular.
    """
    if is_archive_name(folder) and not folder.is_dir():
        with unpacked(folder) as place:
            return read_series(place, irregular=irregular)
    images, notes = _images(folder)
    _of_all(check_file, images, folder)
    check_series(images, folder)
    slices = sorted(images, key=lambda image: image.along(images[0].normal))
    affine, even = affine_of(slices, folder, irregular)
    modality: Modality = "ct" if slices[0].values["Modality"] == "CT" else "mr"
    rows, columns = slices[0].values["Rows"], slices[0].values["Columns"]
    array = np.empty((len(slices), rows, columns), np.float32)  # (K, rows, columns)

    def fill(k: int) -> None:
        array[k] = read_units(slices[k])

    _of_all(fill, range(len(slices)), folder)
    if any(image.values.get("BurnedInAnnotation") == "YES" for image in slices):
        logger.warning("BurnedInAnnotation (0028,0301) is YES: names may stand in the pixels")
    volume = Volume(array.transpose(2, 1, 0), affine, modality)  # (I, J, K)
    return Series(tuple(image.header for image in slices), volume, even, tuple(notes))


def _images(folder: Path) -> tuple[list[SliceFile], list[str]]:
    """The slices of a folder, and what is left out of it."""
    paths, others = _find(folder)
    _require_whole(paths, others, folder)
    files = _of_all(read_header, paths, folder)
    kept = [file for file in files if not is_localizer(file)]
    images = [image for frames in _of_all(frames_of, kept, folder) for image in frames]
    notes = []
    if len(files) > len(kept):
        notes.append(f"{len(files) - len(kept)} localizer images left out")
    if others:
        notes.append(f"{len(others)} files that are not DICOM left out")
    require(bool(images), "expected a DICOM series: found no image", folder, "choose its folder")
    return images, notes


def _find(folder: Path) -> tuple[list[Path], list[Path]]:
    """The DICOM files of a folder, and other files but hidden ones and DICOMDIR."""
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
    known = set(dicom)
    return dicom, [path for path in shown if path not in known]


def _require_whole(dicom: Sequence[Path], others: Sequence[Path], folder: Path) -> None:
    """Refuse files that are no DICOM but were one: named like the series, empty, or nothing but zeros at their start."""
    suffixes = {path.suffix.lower() for path in dicom} - {""}
    lost = [path for path in others if path.suffix.lower() in suffixes or not any(start_of(path))]
    what = "expected a DICOM file, as others here are called so or as it is empty: found none"
    failures = [(path.name, DataError(what, file=path, fix=COPY_AGAIN)) for path in lost]
    what = f"of {len(dicom) + len(others)} files cannot be used"
    refuse_all(failures, what, file=folder, fix=f"{COPY_AGAIN}, or move these files away")


def _of_all(
    function: Callable[[Item], Result], items: Iterable[Item], folder: Path
) -> list[Result]:
    """`function` of each file of a series; all that fail are named at once."""
    results: list[Result] = []
    failures: dict[tuple[str, str], CtmrError] = {}  # one of all frames of a file that fail alike
    for item in items:
        try:
            results.append(function(item))
        except CtmrError as error:
            failures[Path(error.file or "").name, error.what] = error
    named = [(name, error) for (name, _), error in failures.items()]
    what = f"of {len(results) + len(failures)} files cannot be used"
    refuse_all(named, what, file=folder, fix=COPY_AGAIN)
    return results
