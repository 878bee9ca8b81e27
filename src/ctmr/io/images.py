"""Image files <-> arrays with a unit and a spacing, and `ctmr.json`, which says them."""

import json
import logging
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from ctmr.errors import DataError, OutputError, printable
from ctmr.files import json_bytes, read_regular, write_bytes, write_json
from ctmr.intensity import Encoding, FloatArray
from ctmr.ownership import is_own, listing, require_own, write_own
from ctmr.pixels import Depth, Format, decode, encode, luma
from ctmr.scale import Spacing

INFO_NAME = "ctmr.json"
FORMATS: dict[str, Format] = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
MAX_FILE_BYTES = 1_000_000_000
MAX_INFO_BYTES = 10_000_000
MAX_NUMBER = 1e30  # in a ctmr.json
# HU are written as stored value = HU + 1024, as CT scanners do.
HU_SLOPE, HU_INTERCEPT = 1.0, -1024.0

Unit = Literal["HU", "grey"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Image:
    """One image as the file has it, upright.

    Attributes:
        array: (H, W) or (H, W, 3), in stored values, or in HU if `unit` is `"HU"`.
        unit: `"HU"` where the folder's `ctmr.json` says so.
        depth: Bits a channel in the file.
        spacing_mm: Distance between rows and between columns, where `ctmr.json` says so.
        transparent: Whether transparent pixels were put on black.
    """

    array: FloatArray
    unit: Unit
    depth: Depth
    spacing_mm: Spacing | None = None
    transparent: bool = False

    @property
    def encoding(self) -> Encoding:
        """What decides the map from its values to [-1, 1]."""
        if self.unit == "HU":
            return "HU"
        return "8-bit" if self.depth == 8 else "16-bit"


@dataclass(frozen=True)
class ImageInfo:
    """What the `ctmr.json` of an image folder says: HU = slope * stored value + intercept."""

    unit: Unit = "grey"
    slope: float = 1.0
    intercept: float = 0.0
    spacing_mm: Spacing | None = None
    files: Mapping[str, Spacing] = field(default_factory=dict)
    """File name -> spacing of that file, in place of `spacing_mm`."""

    def spacing_of(self, name: str) -> Spacing | None:
        """Spacing in mm of the file of that name; None if unknown."""
        return self.files.get(name, self.spacing_mm)


def is_image_name(path: Path) -> bool:
    """Whether the suffix is one of an image."""
    return path.suffix.lower() in FORMATS


def read_image(
    path: Path, channels: Literal[1, 3] | None = None, info: ImageInfo | None = None
) -> Image:
    """One image file.

    Args:
        path: A PNG, JPEG or TIFF file of 8 or 16 bits.
        channels: 1 makes it grey (ITU-R BT.601 luma), 3 repeats grey; None keeps what the file has.
        info: Its folder's `ctmr.json`, if the caller has read it.

    Raises:
        DataError: If the file or its `ctmr.json` cannot be read.
    """
    info = read_image_info(path.parent) if info is None else info
    image = image_of(read_bytes(path), path, channels, info)
    if image.transparent:
        logger.info("%s: transparent pixels were put on black", printable(str(path)))
    return image


def save_image(path: Path, image: Image, *, overwrite: bool = False) -> None:
    """Write an image in the format of the suffix; one in HU gets a `ctmr.json` beside it that says so.

    Raises:
        OutputError: If the format cannot hold the image, images of another unit are there, a file that ctmr did not write
            is there (without `overwrite`), or the file cannot be written.
    """
    content = image_bytes(path, image)
    require_own([path], overwrite=overwrite)
    add_image_info(path.parent, image.unit, {path.name: image.spacing_mm})
    write_own(path, content, overwrite=overwrite, kind="scans")


def read_bytes(path: Path) -> bytes:
    """The bytes of a regular file of at most 1 GB.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        return read_regular(path, MAX_FILE_BYTES)
    except OSError as error:
        raise DataError(
            f"cannot read it ({error.strerror})", file=path, fix="check the path and permissions"
        ) from error


def image_of(content: bytes, path: Path, channels: Literal[1, 3] | None, info: ImageInfo) -> Image:
    """The image in the bytes of a file; see `read_image`."""
    array, depth, transparent = decode(content, path)
    if array.ndim == 3 and (channels == 1 or info.unit == "HU"):
        array = luma(array)  # (H, W)
    if info.unit == "HU":
        array = array * np.float32(info.slope) + np.float32(info.intercept)
    if array.ndim == 2 and channels == 3:
        array = np.repeat(array[..., None], 3, axis=-1)  # (H, W, 3)
    return Image(array, info.unit, depth, info.spacing_of(path.name), transparent)


def write_image(path: Path, image: Image) -> None:
    """Write an image in the format of the suffix, rounded half to even and clipped to its depth.

    HU are written as 16-bit values of HU + 1024; `write_image_info` says so to a reader.

    Raises:
        OutputError: If the format cannot hold the image, or the file cannot be written.
    """
    write_bytes(path, image_bytes(path, image))


def image_bytes(path: Path, image: Image) -> bytes:
    """The bytes of an image file in the format of the suffix; see `write_image`."""
    form = FORMATS.get(path.suffix.lower())
    if form is None or (form == "JPEG" and image.depth == 16):
        raise OutputError(
            f"a {image.depth}-bit image needs a suffix of "
            + (", ".join(FORMATS) if image.depth == 8 else ".png, .tif, .tiff")
            + f": found {path.suffix!r}",
            file=path,
            fix="change the suffix",
        )
    values = image.array.astype(np.float64)
    if image.unit == "HU":
        if image.depth != 16:
            raise ValueError(f"HU need 16 bits: got {image.depth}")
        values = (values - HU_INTERCEPT) / HU_SLOPE
    if not np.isfinite(values).all():
        raise ValueError("image values must be finite")
    rounded = np.clip(np.rint(values), 0, 2**image.depth - 1)
    stored = rounded.astype(np.uint8) if image.depth == 8 else rounded.astype(np.uint16)
    return encode(stored, form)


def read_image_info(folder: Path) -> ImageInfo:
    """The `ctmr.json` of an image folder; grey values without spacing if there is none.

    Raises:
        DataError: If it says anything that is not understood.
    """
    path = folder / INFO_NAME
    if not path.exists():
        return ImageInfo()
    if path.stat().st_size > MAX_INFO_BYTES:
        _refuse(path, f"at most {MAX_INFO_BYTES} bytes", path.stat().st_size)
    try:
        said = json.loads(
            read_bytes(path), object_pairs_hook=_without_repeats, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"expected one JSON object: {error}", file=path, fix="correct the file"
        ) from error
    _only_keys(path, said, {"unit", "slope", "intercept", "spacing_mm", "files"})
    unit = said.get("unit", "grey")
    if unit not in ("HU", "grey"):
        _refuse(path, 'unit to be "HU" or "grey"', unit)
    if unit == "HU" and not {"slope", "intercept"} <= said.keys():
        _refuse(path, "slope and intercept with unit HU", sorted(said))
    slope, intercept = said.get("slope", 1), said.get("intercept", 0)
    if not (_is_number(slope) and _is_number(intercept)) or slope <= 0:
        _refuse(path, "a slope above 0 and an intercept, as numbers", (slope, intercept))
    if unit == "grey" and (slope, intercept) != (1, 0):
        _refuse(path, "slope 1 and intercept 0 with unit grey", (slope, intercept))
    files: dict[str, Spacing] = {}
    for name, its in _only_keys(path, said.get("files", {}), None).items():
        files[name] = _spacing(path, _only_keys(path, its, {"spacing_mm"}).get("spacing_mm"))
    spacing = _spacing(path, said["spacing_mm"]) if "spacing_mm" in said else None
    return ImageInfo(unit, float(slope), float(intercept), spacing, files)


def write_image_info(
    folder: Path,
    unit: Unit,
    spacing_mm: Spacing | None = None,
    files: Mapping[str, Spacing] | None = None,
) -> None:
    """Write the `ctmr.json` that says how `write_image` wrote the images of this folder, which is a new one."""
    write_json(folder / INFO_NAME, _said_info(unit, spacing_mm, files or {}))


def _said_info(
    unit: Unit, spacing_mm: Spacing | None, files: Mapping[str, Spacing]
) -> dict[str, Any]:
    """What a `ctmr.json` says of images that `write_image` wrote."""
    said: dict[str, Any] = {"unit": unit}
    if unit == "HU":
        said |= {"slope": HU_SLOPE, "intercept": HU_INTERCEPT}
    if spacing_mm is not None:
        said["spacing_mm"] = list(spacing_mm)
    if files:
        said["files"] = {name: {"spacing_mm": list(its)} for name, its in files.items()}
    return said


def add_image_info(
    folder: Path, unit: Unit, files: Mapping[str, Spacing | None], *, always: bool = False
) -> None:
    """Say unit and spacing of some images in the `ctmr.json` of their folder, beside what it says of others.

    Grey values without spacing need no `ctmr.json`, but `always`. Several processes can do this in one folder.

    Raises:
        OutputError: If the unit of other images that are there is another, or the `ctmr.json` is not one of ctmr.
    """
    if info_to_add(folder, unit, files, always=always) is not None:
        with listing(folder) as put:
            said = info_to_add(
                folder, unit, files, always=always
            )  # what it is now that no other process writes
            if said is not None:
                put(INFO_NAME, json_bytes(said), "files")


def info_to_add(
    folder: Path, unit: Unit, files: Mapping[str, Spacing | None], *, always: bool = False
) -> dict[str, Any] | None:
    """What the `ctmr.json` of a folder has to say with some images more; None if it need not change.

    Raises:
        OutputError: See `add_image_info`.
    """
    place = folder / INFO_NAME
    try:
        existing = read_image_info(folder)
    except DataError as error:
        raise OutputError(error.what, file=place, fix="choose another folder") from error
    written_as = (unit, HU_SLOPE, HU_INTERCEPT) if unit == "HU" else (unit, 1.0, 0.0)
    stated = existing.unit, existing.slope, existing.intercept
    others = place.exists() or any(
        is_image_name(path) and path.name not in files for path in folder.glob("*")
    )
    if others and stated != written_as:
        raise OutputError(
            f"images written as {written_as} (unit, slope, intercept) would lie beside others of"
            f" {stated}",
            file=place,
            fix="choose another folder",
        )
    known = {name: spacing for name, spacing in existing.files.items() if name not in files}
    known |= {name: spacing for name, spacing in files.items() if spacing is not None}
    if known == existing.files and (place.exists() or (unit == "grey" and not always)):
        return None
    if os.path.lexists(place) and not is_own(place):
        raise OutputError(
            "the unit and the spacing of the translations belong into this file, and ctmr did not write it:"
            " it is kept",
            file=place,
            fix="choose another folder",
        )
    return _said_info(unit, existing.spacing_mm, known)


def is_regular(path: Path) -> bool:
    """Whether it is a file, or a link to one; a FIFO and a loop of links are not."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:  # a dangling link or a loop of links
        return False


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key is given twice")
    return dict(pairs)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number here")


def _only_keys(path: Path, said: Any, known: set[str] | None) -> dict[str, Any]:
    """`said` as an object whose keys are all known (None: any)."""
    if not isinstance(said, dict):
        _refuse(path, "an object", said)
    if known is not None and not said.keys() <= known:
        _refuse(path, f"keys among {', '.join(sorted(known))}", sorted(said.keys() - known))
    return said


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < MAX_NUMBER  # False for NaN


def _spacing(path: Path, value: Any) -> Spacing:
    fits = isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))
    if not fits or not all(0.001 <= mm <= 1000 for mm in value):
        _refuse(path, "spacing_mm to be two numbers between 0.001 and 1000 (row, column)", value)
    return float(value[0]), float(value[1])


def _refuse(path: Path, expected: str, found: object) -> NoReturn:
    raise DataError(
        f"expected {expected}: found {found!r}", file=path, fix="correct it; see docs/data.md"
    )
