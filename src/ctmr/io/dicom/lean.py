"""What a slice need not say: identifiers that are missing or new for each file, and copies of a slice."""

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from pydicom import Dataset, uid

from ctmr.errors import SafetyError
from ctmr.io.dicom.header import SAME_PLACE_MM, SliceFile, new_uid, require, tagged, text_of
from ctmr.io.dicom.pixels import read_units
from ctmr.types import FloatArray

_FEW = 2  # so many files with a value each may be two series; more are one with values made anew for each file
_SHARED = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_UNITS = ("RescaleType",)
_NEEDLESS = ("Modality", "SOPClassUID", "SOPInstanceUID", *_SHARED, "SliceThickness", *_UNITS)


def check_identity(images: Sequence[SliceFile], folder: Path) -> list[str]:
    """Notes of what is missing or differs though it need not be there; a blank value counts as missing.

    Raises:
        SafetyError: If patients or frames of reference differ.
    """
    notes = []
    for keyword in _NEEDLESS:
        if keyword in _UNITS and images[0].values["Modality"] != "CT":
            continue
        found = [_text(image, keyword) for image in images]
        if keyword == "Modality":  # `check_file` fills it in
            found = [text_of(image.header, keyword) for image in images]
        blank = found.count("")
        if blank:
            where = "" if blank == len(images) else f" in {blank} of {len(images)} files"
            notes.append(f"no {tagged(keyword)}{where}")
        different = len(set(found) - {""})
        if keyword not in _SHARED or different < 2:
            continue
        each = different == len(images) - blank > _FEW
        place = keyword == "FrameOfReferenceUID"
        what = f"expected one {tagged(keyword)} in a series: found {different}"
        fits = keyword != "PatientID" and (each or not place)
        require(fits, what, folder, "move the files of each into a folder of its own", SafetyError)
        notes.append(f"{different} different {tagged(keyword)}: the first is taken")
    if _is_one_for_all(images):
        notes.append(f"one {tagged('SOPInstanceUID')} for all {len(images)} files")
    return notes


def without_copies(slices: Sequence[SliceFile]) -> list[SliceFile]:
    """Sorted slices without those that show the same at the same place as the one before.

    Raises:
        DataError: If two different images lie at one place or have one SOPInstanceUID.
    """
    kept = [slices[0]]
    for image in slices[1:]:
        other = kept[-1]
        away = image.floats("ImagePositionPatient") - other.floats("ImagePositionPatient")
        if float(np.linalg.norm(away)) > SAME_PLACE_MM or not _is_same(image, other):
            kept.append(image)
    known = {} if _is_one_for_all(slices) else {k: v for k, v in _by_uid(kept).items() if k}
    for first, *others in known.values():
        for image in others:
            what = f"expected each {tagged('SOPInstanceUID')} once: found another image with it in"
            what = f"{what} {first.path.name!r}"
            require(False, what, image.path, "move one of the two files away")
    for image, after in pairwise(kept):
        away = after.floats("ImagePositionPatient") - image.floats("ImagePositionPatient")
        what = f"expected one image at a position: found {image.path.name!r} there too"
        fix = "move one of the two files, or of the two echoes, phases or reconstructions, away"
        require(float(np.linalg.norm(away)) > SAME_PLACE_MM, what, after.path, fix)
    return kept


def complete(slices: Sequence[SliceFile], array: FloatArray) -> tuple[Dataset, ...]:
    """The headers with one patient, study, series and frame of reference; UIDs that are missing are made of the pixels.

    A missing SOPInstanceUID stays missing: nobody could look that image up.
    """
    headers = [image.header for image in slices]
    for keyword in _SHARED:
        found = [_text(image, keyword) for image in slices]
        first = next((n for n, text in enumerate(found) if text), None)
        if first is not None and len(set(found)) > 1:
            for header in headers:
                header[keyword] = headers[first].get_item(keyword)
    if not any(_text(image, "SeriesInstanceUID") for image in slices):
        made = new_uid("series", hashlib.sha256(array.tobytes()).hexdigest())
        for header in headers:
            header.SeriesInstanceUID = made
    if not any(_text(image, "StudyInstanceUID") for image in slices):
        series = str(headers[0].SeriesInstanceUID)
        for header in headers:
            header.StudyInstanceUID = new_uid("study", series)
    for header, image in zip(headers, slices, strict=True):
        if not _text(image, "SOPClassUID"):
            ct = image.values["Modality"] == "CT"
            header.SOPClassUID = uid.CTImageStorage if ct else uid.MRImageStorage
    if _is_one_for_all(slices):
        for header in headers:
            del header["SOPInstanceUID"]
    return tuple(headers)


def _text(image: SliceFile, keyword: str) -> str:
    return str(image.values.get(keyword, "")).strip(" \0")


def _by_uid(images: Sequence[SliceFile]) -> dict[str, list[SliceFile]]:
    found: dict[str, list[SliceFile]] = {}
    for image in images:
        identity = _text(image, "SOPInstanceUID")
        if identity and image.frame is not None:
            identity = f"{identity} {image.frame}"
        found.setdefault(identity, []).append(image)
    return found


def _is_one_for_all(images: Sequence[SliceFile]) -> bool:
    """Whether more than two files have one SOPInstanceUID: it was made up, once."""
    uids = _by_uid(images)
    return len(images) > _FEW and len(uids) == 1 and "" not in uids


def _is_same(image: SliceFile, other: SliceFile) -> bool:
    """Whether two images of one size are turned the same way and show the same."""
    turns = [one.floats("ImageOrientationPatient") for one in (image, other)]
    if np.abs(turns[0] - turns[1]).max() > 1e-3:
        return False
    return np.array_equal(read_units(image).array, read_units(other).array)
