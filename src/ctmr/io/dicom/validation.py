"""What a DICOM file and a series must say of their kind, place and units to be read; all else is refused."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctmr.errors import DataError, SafetyError, printable
from ctmr.io.dicom.header import (
    COPY_AGAIN,
    GEOMETRY,
    LAYOUT,
    NATIVE,
    SAME_PLACE_MM,
    SliceFile,
    parsing,
    require,
    tagged,
)
from ctmr.io.dicom.kinds import ENHANCED, modality_of
from ctmr.io.dicom.lean import check_identity
from ctmr.system.memory import require_memory
from ctmr.types import Matrix

MAX_SERIES_BYTES = 4 * 2**30
EXACT_OFF, MAX_OFF = 1e-3, 1e-2  # of direction cosines: as written, and as rounded to two decimals
OFF_LINE_MM = 0.05  # of a slice whose position was rounded
MOST_OFF_MM = 1.0  # of uneven slices, each of which keeps its place
MAX_SIDE = 4096  # pixels; also what bounds the memory that a compressed slice can ask for
MAX_BESIDE = 2**26  # bytes of a file beside its pixels

_MIN_MM, _MAX_MM = 0.001, 1e6  # no length in mm is smaller or larger
_MAX_SLOPE = 1e9  # no slope or intercept is larger


def check_file(image: SliceFile, *, vouched: bool = False) -> None:
    """Refuse a file that is no single CT or MR slice, or whose place or units are not known.

    Its Modality becomes CT or MR if only SOPClassUID says so.

    Args:
        image: Its header.
        vouched: The caller knows the unit of a CT.

    Raises:
        DataError: If it is damaged, or of a kind that is not read.
        SafetyError: If its geometry or units are missing or contradictory.
    """
    _check_kind(image)
    _check_layout(image)
    _check_place(image)
    _check_units(image, vouched)


def _check_kind(image: SliceFile) -> None:
    """Refuse all but a single-frame CT or MR image with valid UIDs."""
    path, values = image.path, image.values
    with parsing(path):
        frames = int(values.get("NumberOfFrames", 1))
    what = "expected single-frame CT or MR: found a multi-frame object without functional groups"
    kind = str(values.get("SOPClassUID", ""))
    single = image.frame is not None or (frames == 1 and kind not in ENHANCED)
    require(single, what, path, "convert it to NIfTI, for instance with dcm2niix")
    modality = modality_of(values)
    what = "expected a CT or MR image by Modality (0008,0060) and SOPClassUID (0008,0016)"
    require(modality is not None, f"{what}: found another object", path, "move it away")
    values["Modality"] = "CT" if modality == "ct" else "MR"


def _check_layout(image: SliceFile) -> None:
    """Refuse colours, odd bit depths, sizes beyond the limits and files too short for their pixels."""
    path, values = image.path, image.values
    for keyword in LAYOUT:
        require(keyword in values, f"expected {tagged(keyword)}: found none", path, COPY_AGAIN)
    with parsing(path):
        size = path.stat().st_size
        numbers = [k for k in LAYOUT if k != "PhotometricInterpretation"]
        values.update({keyword: int(values[keyword]) for keyword in numbers})
    samples, rows, columns, allocated, stored, high, sign = (values[k] for k in numbers)
    grey = samples == 1 and values["PhotometricInterpretation"] in ("MONOCHROME1", "MONOCHROME2")
    what = "expected grey pixels, MONOCHROME1 or MONOCHROME2: found colours"
    require(grey, what, path, "choose the original series")
    what = f"expected 1 to {MAX_SIDE} rows and columns: found {rows} x {columns}"
    require(0 < rows <= MAX_SIDE and 0 < columns <= MAX_SIDE, what, path, COPY_AGAIN)
    bits = (
        allocated in (8, 16) and 0 < stored <= allocated and high == stored - 1 and sign in (0, 1)
    )
    what = f"expected 8 or 16 bits allocated, HighBit = BitsStored - 1: found {allocated}, {stored}"
    require(bits, f"{what} stored, {high} high", path, "export the series again")
    frames = 1 if image.frame is None else int(values["NumberOfFrames"])
    pixels = frames * rows * columns * allocated // 8
    what = f"expected {pixels} bytes of pixels: found a file of {size} bytes"
    fits = size <= 2 * pixels + MAX_BESIDE and (image.syntax not in NATIVE or size >= pixels)
    require(fits, what, path, COPY_AGAIN)


def _check_place(image: SliceFile) -> None:
    """Refuse a position, orientation or pixel spacing that is missing or none."""
    path, values = image.path, image.values
    for keyword in GEOMETRY:
        what = f"expected {tagged(keyword)}: found none"
        fix = "export the original images, or move this one away"
        require(keyword in values, what, path, fix, SafetyError)
    with parsing(path):
        parts = [image.floats(keyword) for keyword in GEOMETRY]
    sane = [part.size for part in parts] == [3, 6, 2] and all(
        bool((np.abs(part) < _MAX_MM).all()) for part in parts
    )
    what = f"expected finite position, orientation and pixel spacing > {_MIN_MM} mm: found others"
    sane = sane and bool((parts[2] > _MIN_MM).all())
    require(sane, what, path, "export the original images", SafetyError)
    row, column = np.split(parts[1], 2)
    off = _off(row, column)
    what = f"expected orthonormal {tagged('ImageOrientationPatient')}: found it off by {off:.2g}"
    require(off <= MAX_OFF, what, path, "export the original images", SafetyError)
    if off > EXACT_OFF:
        # The nearest orthonormal pair (polar decomposition).
        left, _, right = np.linalg.svd(np.stack([row, column]), full_matrices=False)
        values["ImageOrientationPatient"] = [*(left @ right).ravel()]
        values["rounded"] = True


def _off(row: NDArray[np.float64], column: NDArray[np.float64]) -> float:
    """How far direction cosines are from lengths of 1 and a product of 0."""
    lengths = [float(np.linalg.norm(side)) - 1 for side in (row, column)]
    return max(abs(lengths[0]), abs(lengths[1]), abs(float(row @ column)))


def _check_units(image: SliceFile, vouched: bool) -> None:
    """Refuse a CT that is not in Hounsfield units, unless they are vouched for, and a slope that loses the pixels."""
    path, values = image.path, image.values
    if values["Modality"] == "CT" and not vouched:
        fix = (
            "give --ct-values hu if they are Hounsfield units, or hu+1024, or grey if nobody knows"
        )
        what = (
            "expected RescaleSlope (0028,1053) and RescaleIntercept (0028,1052) of a CT: found none"
        )
        rescaled = "RescaleSlope" in values and "RescaleIntercept" in values
        require(rescaled, what, path, fix, SafetyError)
        hu = str(values.get("RescaleType", "HU")).strip() == "HU"
        what = "expected RescaleType (0028,1054) HU of a CT: found another unit"
        require(hu, what, path, fix, SafetyError)
    with parsing(path):
        slope, intercept = image.rescale
    what = f"expected a finite RescaleSlope (0028,1053) that is not 0: found {slope}, {intercept}"
    sane = 0 < abs(slope) < _MAX_SLOPE and abs(intercept) < _MAX_SLOPE  # False for NaN
    require(sane, what, path, "export the original images")


def check_series(images: Sequence[SliceFile], folder: Path) -> list[str]:
    """Refuse files that are not the slices of one series of one patient on one grid; notes of what they do not say.

    Raises:
        DataError: If there are several grids, or too many pixels.
        ResourceError: If they take more memory than there is.
        SafetyError: If modality, patient or frame of reference differ.
    """
    _require_one("Modality", [str(image.values["Modality"]) for image in images], images, folder)
    for keyword in ("Rows", "Columns", "PixelSpacing"):
        found = [" x ".join(f"{v:.6g}" for v in image.floats(keyword)) for image in images]
        _require_one(keyword, found, images, folder)
    notes = check_identity(images, folder)
    if any(image.values.get("rounded") for image in images):
        notes.append(f"{tagged('ImageOrientationPatient')} is rounded: made orthonormal")
    size = 4 * len(images) * images[0].values["Rows"] * images[0].values["Columns"]
    what = f"expected a series of at most {MAX_SERIES_BYTES} bytes: found {size}"
    require(size <= MAX_SERIES_BYTES, what, folder, "keep one series in a folder")
    require_memory(size, folder)
    return notes


def _require_one(
    keyword: str, found: Sequence[str], images: Sequence[SliceFile], folder: Path
) -> None:
    """Refuse a value that is not the same in all files, and name the files of the rarer ones."""
    counts = Counter(found).most_common()
    usual = counts[0][0]
    others = [image.path.name for image, text in zip(images, found, strict=True) if text != usual]
    listed = ", ".join(f"{text} ({count} files)" for text, count in counts[:4])
    what = f"expected one {tagged(keyword)} in a series: found {len(counts)}: {listed}"
    names = printable(", ".join(others[:3])) + (
        f" and {len(others) - 3} more" if others[3:] else ""
    )
    error = SafetyError if keyword == "Modality" else DataError
    fix = f"move {names} into a folder of its own"
    require(len(counts) == 1, what, folder, fix, error)


def affine_of(slices: Sequence[SliceFile], folder: Path, irregular: bool) -> tuple[Matrix, bool]:
    """The affine (RAS+ mm) of sorted slices, sheared if the gantry was tilted, and whether they lie evenly.

    Raises:
        DataError: If two slices lie at one position.
        SafetyError: If they are turned, or lie off a line or unevenly though `irregular` is not allowed.
    """
    first = slices[0]
    orientation = first.floats("ImageOrientationPatient")
    for image in slices:
        off = np.abs(image.floats("ImageOrientationPatient") - orientation).max()
        what = f"expected one {tagged('ImageOrientationPatient')}: found another, off by {off:.2g}"
        fix = f"move {printable(image.path.name)} into a folder of its own"
        require(off <= 1e-3, what, image.path, fix, SafetyError)
    even = len(slices) == 1 or _is_even(slices, folder, irregular)
    down, across = first.floats("PixelSpacing")
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = orientation[:3] * across, orientation[3:] * down
    if len(slices) == 1:
        lps[:3, 2] = _thickness(first)
    else:
        lps[:3, 2], off = _step(slices, irregular)
        even = even and off <= OFF_LINE_MM
    lps[:3, 3] = first.floats("ImagePositionPatient")
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps, even


def _thickness(image: SliceFile) -> NDArray[np.float64]:
    """The way through a single slice, LPS mm."""
    with parsing(image.path):
        thickness = float(image.values.get("SliceThickness", 0))
    what = "expected SliceThickness (0018,0050) of a single slice: found none"
    sane = _MIN_MM < thickness < _MAX_MM
    require(sane, what, image.path, "export the original images", SafetyError)
    return image.normal * thickness


def _step(slices: Sequence[SliceFile], irregular: bool) -> tuple[NDArray[np.float64], float]:
    """The mean way from one of two or more sorted slices to the next, LPS mm, and how far off it they lie at most."""
    places = np.stack([image.floats("ImagePositionPatient") for image in slices])
    step = (places[-1] - places[0]) / (len(slices) - 1)
    way = step / np.linalg.norm(step)
    away = places - places[0]
    off = np.linalg.norm(away - np.outer(away @ way, way), axis=1)
    worst = slices[int(off.argmax())].path
    what = f"expected all {tagged('ImagePositionPatient')} on a line: found one {off.max():.3g} mm"
    near = off.max() <= (MOST_OFF_MM if irregular else OFF_LINE_MM)
    fix = "export the original images" + (
        ", or give --irregular" if off.max() <= MOST_OFF_MM else ""
    )
    require(bool(near), f"{what} off", worst, fix, SafetyError)
    return np.asarray(step), float(off.max())


def _is_even(slices: Sequence[SliceFile], folder: Path, irregular: bool) -> bool:
    """Whether two or more sorted slices lie evenly; False only if `irregular` is allowed."""
    along = np.array([image.along(slices[0].normal) for image in slices])
    gaps = np.diff(along)
    same = int(gaps.argmin())
    what = (
        f"expected slices that lie behind each other along the normal of {tagged('ImageOrientationPatient')}:"
        f" found {slices[same].path.name!r} at the same depth; the header contradicts itself"
    )
    fix = "export the original images"
    require(bool(gaps[same] > SAME_PLACE_MM), what, slices[same + 1].path, fix, SafetyError)
    usual = float(np.median(gaps))
    tolerance = max(0.01 * usual, 0.05)
    wrong = np.flatnonzero(np.abs(gaps - usual) > tolerance)
    drift = np.abs(along - np.linspace(along[0], along[-1], len(along))).max()
    if wrong.size == 0 and drift <= 2 * tolerance:
        return True
    k = int(wrong[0]) if wrong.size else int(np.abs(gaps - gaps.mean()).argmax())
    what = (
        f"slice spacing must be regular within {tolerance:.3g} mm: found {gaps[k]:.3f} mm instead of"
        f" {usual:.3f} mm between slices {k + 1} and {k + 2} of {len(along)}, at {along[k]:.3f} and"
        f" {along[k + 1]:.3f} mm ({wrong.size} such gaps, drift {drift:.3g} mm)"
    )
    require(
        irregular,
        what,
        folder,
        "add the missing files, or give --irregular",
        SafetyError,
    )
    return False
