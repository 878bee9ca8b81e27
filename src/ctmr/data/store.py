"""The store of prepared slices: `store.json`, which says what and where, and `slices.u16`, memory-mapped."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from ctmr.config import DataConfig
from ctmr.data.copies import require_copies, sha256_of
from ctmr.errors import DataError, UsageError
from ctmr.imaging.intensity import Intensities
from ctmr.imaging.resampling import Scale
from ctmr.system.files import read_regular
from ctmr.types import MODALITIES, SPLITS, CtWindow, FloatArray, Modality, Split

FORMAT: Literal["ctmr store 3"] = "ctmr store 3"
INDEX_NAME = "store.json"
SLICES_NAME = "slices.u16"
MAX_INDEX_BYTES = 2**30
Codes = NDArray[np.uint16]


@dataclass(frozen=True)
class Entry:
    """One slice of the store.

    Attributes:
        name: File name it came from; of a volume's slice, with its number behind.
        patient: What `data.patient_pattern` found in its path.
        height: Pixels at the store's scale.
        width: Likewise.
        offset: Where it begins in `slices.u16`, in values.
        sha256: Of the source file.
        height_mm: Of a volume's slice, its distance below the top of the head.
    """

    name: str
    patient: str | None
    height: int
    width: int
    offset: int
    sha256: str
    height_mm: float | None = None


@dataclass(frozen=True)
class Overlap:
    """A training and a test image (`folder/name`) that are one file's content or one patient's."""

    train: str
    test: str
    why: Literal["identical", "patient"]


class Index(BaseModel):
    """What `store.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format: Literal["ctmr store 3"] = FORMAT
    fingerprint: str
    """SHA-256 over the settings below, the names and contents of all files, and each `ctmr.json`."""
    size: int
    channels: Literal[1, 3]
    ct_window: CtWindow
    pixel_mm: float
    patient_pattern: str | None
    scale: Scale
    intensities: Intensities
    """Modality -> encoding of its training images, the commonest first -> map to [-1, 1]."""
    entries: dict[Split, dict[Modality, tuple[Entry, ...]]]
    overlap: tuple[Overlap, ...]
    slices_sha256: str = ""
    """Of `slices.u16`; empty until it is written."""
    reading: dict[str, Any] = {}
    """The reading options that the user gave (`ctmr.io.reading`)."""

    let_in: dict[str, int] = {}
    """How many scans only `--anyway` let in, by reason."""

    copies: dict[str, str] = {}
    """SHA-256 of what is kept beside the slices, by its path below the store (`ctmr.data.copies`)."""

    def as_json(self) -> str:
        """The text of `store.json`; what the reading options did is left out where none was given."""
        empty = {name for name in ("reading", "let_in", "copies") if not getattr(self, name)}
        return self.model_dump_json(indent=1, exclude=empty) + "\n"


class Store:
    """Slices on disk in random access; safe to send to loader workers, which map the file anew."""

    def __init__(self, path: Path, index: Index) -> None:
        self.path = path
        self.index = index

    def __repr__(self) -> str:
        counts = ", ".join(f"{s} {m} {self.count(s, m)}" for s in SPLITS for m in MODALITIES)
        return f"Store({str(self.path)!r}: {counts})"

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "index": self.index}  # without the memory map

    @property
    def scale(self) -> Scale:
        """The pixel size of the slices."""
        return self.index.scale

    @property
    def intensities(self) -> Intensities:
        """Modality -> encoding of its training images, the commonest first -> map to [-1, 1]."""
        return self.index.intensities

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the data and of the settings that matter."""
        return self.index.fingerprint

    def entries(self, split: Split, modality: Modality) -> tuple[Entry, ...]:
        """The slices of one folder, in order of their names' bytes."""
        return self.index.entries.get(split, {}).get(modality, ())

    def count(self, split: Split, modality: Modality) -> int:
        """How many slices one folder has; 0 where it was absent."""
        return len(self.entries(split, modality))

    def codes(self, split: Split, modality: Modality, index: int) -> Codes:
        """One slice (H, W, C) as it lies on disk, a view; `from_codes` makes it [-1, 1]."""
        entry = self.entries(split, modality)[index]
        shape = entry.height, entry.width, self.index.channels
        length = shape[0] * shape[1] * shape[2]
        return self._values[entry.offset : entry.offset + length].reshape(shape)

    def slice(self, split: Split, modality: Modality, index: int) -> FloatArray:
        """One slice, float32 (H, W, C) in [-1, 1], at the store's scale."""
        return from_codes(self.codes(split, modality, index))

    @cached_property
    def _values(self) -> Codes:
        """All of `slices.u16`, mapped when first used."""
        path = self.path / SLICES_NAME
        try:
            return np.memmap(path, dtype="<u2", mode="r")
        except OSError as error:
            raise DataError(
                f"the prepared slices are gone ({error.strerror})",
                file=path,
                fix="prepare the data again",
            ) from error


def open_store(path: Path) -> Store:
    """The store in a folder.

    Raises:
        DataError: If it is no store, of another format, or its slices are not those that were written.
    """
    try:
        text = read_regular(path / INDEX_NAME, MAX_INDEX_BYTES)
        length = (path / SLICES_NAME).stat().st_size
        index = Index.model_validate_json(text)
    except OSError as error:
        raise DataError(
            f"expected a store ({INDEX_NAME} and {SLICES_NAME}): {error.strerror}",
            file=path,
            fix="give a folder written by ctmr prepare",
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(
            f"{INDEX_NAME} is not of {FORMAT!r}: {'.'.join(map(str, first['loc']))}:"
            f" {first['msg']}",
            file=path,
            fix="delete the store and prepare it again",
        ) from error
    expected = 2 * _checked_length(path, index)
    if length != expected:
        raise DataError(
            f"expected {expected} bytes in {SLICES_NAME}, found {length}",
            file=path,
            fix="delete the store and prepare it again",
        )
    found = sha256_of(path / SLICES_NAME)
    if found != index.slices_sha256:
        raise DataError(
            f"damaged: expected sha256 {index.slices_sha256[:16]}..., found {found[:16]}...",
            file=path / SLICES_NAME,
            fix="delete the store and prepare it again",
        )
    require_copies(path, index.copies)
    return Store(path, index)


def with_settings(store: Store, config: DataConfig) -> Store:
    """The store, if it was made with the settings asked for.

    Raises:
        UsageError: If not.
    """
    made, asked = store.index, config
    pairs = {
        "size": (made.size, asked.size),
        "channels": (made.channels, asked.channels),
        "ct_window": (made.ct_window, asked.ct_window),
        "pixel_mm": (made.pixel_mm, asked.pixel_mm),
        "patient_pattern": (made.patient_pattern, asked.patient_pattern or made.patient_pattern),
    }
    for key, (has, wanted) in pairs.items():
        if has != wanted:
            raise UsageError(
                f"the store was made with data.{key} = {has!r}, the configuration asks for"
                f" {wanted!r}",
                file=store.path,
                fix=f"set data.{key}={has}, or give the data folder itself",
            )
    return store


def evenly(count: int, limit: int) -> list[int]:
    """Pick up to `limit` evenly spaced ones of the places 0 to `count` - 1."""
    return [int(place) for place in np.linspace(0, count - 1, min(count, limit))]


def to_codes(array: FloatArray) -> Codes:
    """Values in [-1, 1] -> 0..65535, rounded."""
    return np.rint((array.astype(np.float64) + 1) * 32767.5).astype("<u2")


def from_codes(codes: Codes) -> FloatArray:
    """0..65535 -> float32 in [-1, 1]; both ends are exact."""
    return np.asarray(codes, np.float32) / np.float32(32767.5) - np.float32(1)


def _checked_length(path: Path, index: Index) -> int:
    """Values in `slices.u16` if the entries lie one after the other, as they must."""
    end = 0
    folders: Mapping[Split, Mapping[Modality, tuple[Entry, ...]]] = index.entries
    for split in SPLITS:
        for modality in MODALITIES:
            for entry in folders.get(split, {}).get(modality, ()):
                if entry.offset != end or min(entry.height, entry.width) < index.size:
                    raise DataError(
                        f"entry {entry.name!r} of {INDEX_NAME} does not fit: offset"
                        f" {entry.offset}, {entry.height} x {entry.width}",
                        file=path,
                        fix="delete the store and prepare it again",
                    )
                end += entry.height * entry.width * index.channels
    return end
