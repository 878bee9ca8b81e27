"""`ctmr.json`: unit, slope, intercept and spacing of the images of a folder."""

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ctmr.errors import DataError, OutputError
from ctmr.imaging.image import Unit
from ctmr.io.codecs import is_image_name
from ctmr.io.fetched import require_fetched
from ctmr.system.files import json_bytes, read_regular, write_json
from ctmr.system.ownership import LIST_NAME, is_own, is_own_extra, listing, require_list
from ctmr.types import Spacing

INFO_NAME = "ctmr.json"
MAX_FILE_BYTES = 1_000_000_000
MAX_INFO_BYTES = 10_000_000
MAX_NUMBER = 1e30  # in a ctmr.json
# HU are written as stored value = HU + 1024, as CT scanners do.
HU_SLOPE, HU_INTERCEPT = 1.0, -1024.0


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


def read_bytes(path: Path) -> bytes:
    """The bytes of a regular file of at most 1 GB.

    Raises:
        DataError: If it cannot be read.
    """
    require_fetched(path)
    try:
        return read_regular(path, MAX_FILE_BYTES)
    except OSError as error:
        raise DataError(
            f"cannot read it ({error.strerror})", file=path, fix="check the path and permissions"
        ) from error


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
        content = json.loads(
            read_bytes(path), object_pairs_hook=_without_repeats, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"expected one JSON object: {error}", file=path, fix="correct the file"
        ) from error
    _only_keys(path, content, {"unit", "slope", "intercept", "spacing_mm", "files"})
    unit = content.get("unit", "grey")
    if unit not in ("HU", "grey"):
        _refuse(path, 'unit to be "HU" or "grey"', unit)
    if unit == "HU" and not {"slope", "intercept"} <= content.keys():
        _refuse(path, "slope and intercept with unit HU", sorted(content))
    slope, intercept = content.get("slope", 1), content.get("intercept", 0)
    if not (_is_number(slope) and _is_number(intercept)) or slope <= 0:
        _refuse(path, "a slope above 0 and an intercept, as numbers", (slope, intercept))
    if unit == "grey" and (slope, intercept) != (1, 0):
        _refuse(path, "slope 1 and intercept 0 with unit grey", (slope, intercept))
    files: dict[str, Spacing] = {}
    for name, entry in _only_keys(path, content.get("files", {}), None).items():
        files[name] = _spacing(path, _only_keys(path, entry, {"spacing_mm"}).get("spacing_mm"))
    spacing = _spacing(path, content["spacing_mm"]) if "spacing_mm" in content else None
    return ImageInfo(unit, float(slope), float(intercept), spacing, files)


def write_image_info(
    folder: Path,
    unit: Unit,
    spacing_mm: Spacing | None = None,
    files: Mapping[str, Spacing] | None = None,
) -> None:
    """Write the `ctmr.json` that says how `write_image` wrote the images of this folder, which is a new one."""
    write_json(folder / INFO_NAME, _info_object(unit, spacing_mm, files or {}))


def _info_object(
    unit: Unit, spacing_mm: Spacing | None, files: Mapping[str, Spacing]
) -> dict[str, Any]:
    """What a `ctmr.json` says of images that `write_image` wrote."""
    content: dict[str, Any] = {"unit": unit}
    if unit == "HU":
        content |= {"slope": HU_SLOPE, "intercept": HU_INTERCEPT}
    if spacing_mm is not None:
        content["spacing_mm"] = list(spacing_mm)
    if files:
        content["files"] = {name: {"spacing_mm": list(spacing)} for name, spacing in files.items()}
    return content


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
            content = info_to_add(
                folder, unit, files, always=always
            )  # what it is now that no other process writes
            if content is not None:
                put(INFO_NAME, json_bytes(content), "files")


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
        is_image_name(path) and path.name not in files and not is_own_extra(path)
        for path in folder.glob("*")
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
    require_list(folder / LIST_NAME)
    if os.path.lexists(place) and not is_own(place):
        raise OutputError(
            "the unit and the spacing of the translations belong into this file, and ctmr did not write it:"
            " it is kept",
            file=place,
            fix="choose another folder",
        )
    in_order = dict(sorted(known.items()))  # whoever wrote which
    return _info_object(unit, existing.spacing_mm, in_order)


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


def _only_keys(path: Path, value: Any, known: set[str] | None) -> dict[str, Any]:
    """`said` as an object whose keys are all known (None: any)."""
    if not isinstance(value, dict):
        _refuse(path, "an object", value)
    if known is not None and not value.keys() <= known:
        _refuse(path, f"keys among {', '.join(sorted(known))}", sorted(value.keys() - known))
    return value


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < MAX_NUMBER  # False for NaN


def _spacing(path: Path, value: Any) -> Spacing:
    fits = isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))
    if not fits or not all(0.001 <= mm <= 1000 for mm in value):
        _refuse(path, "spacing_mm to be two numbers between 0.001 and 1000 (row, column)", value)
    return float(value[0]), float(value[1])


def _refuse(path: Path, expected: str, found: object) -> NoReturn:
    raise DataError(
        f"expected {expected}: found {found!r}",
        file=path,
        fix="correct it; see ctmr help data-folders",
    )
