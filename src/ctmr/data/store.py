"""The store of prepared slices: `store.json`, which says what it is, an index, and shards that hold the slices."""

import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from ctmr.config import DataConfig
from ctmr.data.copies import Copies, require_copies, sha256_of
from ctmr.data.manifest import (
    COPIES_NAME,
    EARLIER,
    FORMAT,
    INDEX_NAME,
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    OVERLAP_NAME,
    TEXTS_NAME,
    Codes,
    Entry,
    Manifest,
    Overlap,
    shard_name,
)
from ctmr.data.parts import RESTORE, OpenFiles, require_parts
from ctmr.data.records import NO_PATIENT, RECORD, Record, Records, checksum, unpacked
from ctmr.errors import DataError, UsageError, printable
from ctmr.imaging.intensity import Intensities
from ctmr.imaging.resampling import Scale
from ctmr.system.files import read_regular
from ctmr.types import MODALITIES, SPLITS, FloatArray, Modality, Split

AT_ONCE = 2**14  # records


class Store:
    """Slices on disk in random access; a loader worker gets the path and what `store.json` says, and opens the rest anew."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._files = OpenFiles(path)
        self._numbers = {(s, m): manifest.numbers(s, m) for s in SPLITS for m in MODALITIES}

    def __repr__(self) -> str:
        counts = ", ".join(f"{s} {m} {self.count(s, m)}" for s in SPLITS for m in MODALITIES)
        return f"Store({str(self.path)!r}: {counts})"

    def __reduce__(self) -> tuple[type["Store"], tuple[Path, Manifest]]:
        return Store, (self.path, self.manifest)  # without the open files

    @property
    def scale(self) -> Scale:
        """The pixel size of the slices."""
        return self.manifest.scale

    @property
    def intensities(self) -> Intensities:
        """Modality -> encoding of its training images, the commonest first -> map to [-1, 1]."""
        return self.manifest.intensities

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the data and of the settings that matter."""
        return self.manifest.fingerprint

    @cached_property
    def overlap(self) -> tuple[Overlap, ...]:
        """Test images that are in the training folders too, or of the same patients."""
        return tuple(Overlap(**each) for each in self._json(OVERLAP_NAME, []))

    @cached_property
    def copies(self) -> Copies:
        """SHA-256 of what is kept beside the slices, by its path below the store (`ctmr.data.copies`)."""
        return Copies(self._json(COPIES_NAME, {}))

    def entries(self, split: Split, modality: Modality) -> "Entries":
        """The slices of one folder, in order of their names' bytes; each is read when it is asked for."""
        return Entries(self, self._numbers[split, modality])

    def count(self, split: Split, modality: Modality) -> int:
        """How many slices one folder has; 0 where it was absent."""
        return len(self._numbers[split, modality])

    def heights_mm(self, split: Split, modality: Modality) -> NDArray[np.float64]:
        """The heights of one folder's slices; NaN where they have none."""
        found = [records["height_mm"] for records in self._records(self._numbers[split, modality])]
        return np.concatenate(found) if found else np.empty(0)

    def height_mm(self, split: Split, modality: Modality, index: int) -> float:
        """The height of one slice; NaN if it has none."""
        return self.record(self._numbers[split, modality][index]).height_mm

    def trained_on(self, sha256s: set[str]) -> set[str]:
        """Which of some scans, by their SHA-256, are among the training scans."""
        wanted = {bytes.fromhex(sha256) for sha256 in sha256s}
        starts = np.array([int.from_bytes(each[:8], "little") for each in wanted], np.uint64)
        found = set()
        for modality in MODALITIES if wanted else ():
            for records in self._records(self._numbers["train", modality]):
                hashes = np.ascontiguousarray(records["sha256"])
                alike = np.isin(hashes.view("<u8")[::4], starts)
                found |= wanted.intersection(each.tobytes() for each in hashes[alike])
        return {each.hex() for each in found}

    def codes(self, split: Split, modality: Modality, index: int) -> Codes:
        """One slice (H, W, C) as it lies on disk, not to be changed; `from_codes` makes it [-1, 1].

        Raises:
            DataError: If it is not what was written, naming its shard and it.
        """
        number = self._numbers[split, modality][index]
        record = self.record(number)
        shape = record.height, record.width, self.manifest.channels
        length = 2 * shape[0] * shape[1] * shape[2]
        try:
            content = self._files.read(shard_name(record.shard), record.offset, length)
            found = checksum(content)
            if found != record.checksum:
                raise DataError(
                    f"damaged: expected checksum {record.checksum:08x}, found {found:08x}",
                    file=self.path / shard_name(record.shard),
                    fix=RESTORE,
                )
        except DataError as error:
            what = f"{self._called(number, split, modality)}: {error.what}"
            raise DataError(what, file=error.file, fix=error.fix) from error
        return np.frombuffer(content, "<u2").reshape(shape)

    def slice(self, split: Split, modality: Modality, index: int) -> FloatArray:
        """One slice, float32 (H, W, C) in [-1, 1], at the store's scale."""
        return from_codes(self.codes(split, modality, index))

    def record(self, number: int) -> Record:
        """What the index says of a slice.

        Raises:
            DataError: If it is not what was written.
        """
        content = self._files.read(INDEX_NAME, number * RECORD.itemsize, RECORD.itemsize)
        record = unpacked(content)
        if record is None or min(record.height, record.width) < self.manifest.size:
            raise DataError(
                f"damaged: the record of slice {number} is not what was written",
                file=self.path / INDEX_NAME,
                fix=RESTORE,
            )
        return record

    def entry(self, number: int) -> Entry:
        """What is known of a slice, by its place in the index."""
        record = self.record(number)
        patient_bytes = 0 if record.patient_bytes == NO_PATIENT else record.patient_bytes
        length = record.name_bytes + patient_bytes
        text = self._files.read(TEXTS_NAME, record.text_at, length)
        name, patient = text[: record.name_bytes], text[record.name_bytes :]
        return Entry(
            name=name.decode("utf-8", "replace"),
            patient=None
            if record.patient_bytes == NO_PATIENT
            else patient.decode("utf-8", "replace"),
            height=record.height,
            width=record.width,
            sha256=record.sha256.hex(),
            height_mm=None if math.isnan(record.height_mm) else record.height_mm,
        )

    def verify(self) -> None:
        """Read all of the store and compare it with what was written.

        Raises:
            DataError: Naming the files that differ.
        """
        parts = self.manifest.parts
        with ThreadPoolExecutor() as pool:
            found = pool.map(sha256_of, [self.path / name for name in parts])
            pairs = zip(parts.items(), found, strict=True)
            wrong = [name for (name, part), sha256 in pairs if sha256 != part.sha256]
        if wrong:
            raise DataError(
                f"damaged: {len(wrong)} of {len(parts)} files are not what was written:"
                f" {', '.join(wrong[:3])}{', ...' if wrong[3:] else ''}",
                file=self.path,
                fix=RESTORE,
            )

    def _called(self, number: int, split: Split, modality: Modality) -> str:
        """What a slice goes by in an error."""
        place = f"slice {number - self._numbers[split, modality].start} of {split} {modality}"
        try:
            return f"{place}, {printable(self.entry(number).name)}"
        except DataError:
            return place

    def _records(self, numbers: range) -> Iterator[Records]:
        """The records of some slices that follow each other, many at a time."""
        for start in range(numbers.start, numbers.stop, AT_ONCE):
            count = min(AT_ONCE, numbers.stop - start)
            size = RECORD.itemsize
            yield np.frombuffer(self._files.read(INDEX_NAME, start * size, count * size), RECORD)

    def _json(self, name: str, otherwise: Any) -> Any:
        """What a part in JSON holds, if the store has it."""
        part = self.manifest.parts.get(name)
        if part is None:
            return otherwise
        content = self._files.read(name, 0, part.bytes)
        try:
            return json.loads(content)
        except ValueError as error:
            raise DataError(
                f"damaged: it is not JSON ({error})", file=self.path / name, fix=RESTORE
            ) from error


class Entries(Sequence[Entry]):
    """The slices of one folder of a store; each is read when it is asked for."""

    def __init__(self, store: Store, numbers: range) -> None:
        self._store, self._numbers = store, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, place: int) -> Entry: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Entry]: ...
    def __getitem__(self, place: int | slice) -> Entry | Sequence[Entry]:
        found = self._numbers[place]
        return Entries(self._store, found) if isinstance(found, range) else self._store.entry(found)


def open_store(path: Path) -> Store:
    """The store in a folder. Of its files only the lengths are looked at; slices are tested when they are read.

    Raises:
        DataError: If it is no store, of another format, or lacks something.
    """
    try:
        text = read_regular(path / MANIFEST_NAME, MAX_MANIFEST_BYTES)
    except OSError as error:
        raise DataError(
            f"expected a store ({MANIFEST_NAME}): {error.strerror}",
            file=path,
            fix="give a folder written by ctmr prepare",
        ) from error
    manifest = _manifest(path, text)
    require_parts(path, manifest.parts)
    store = Store(path, manifest)
    _require_whole(store)
    require_copies(path, store.copies)
    return store


def _manifest(path: Path, text: bytes) -> Manifest:
    if f'"format": "{EARLIER}"'.encode() in text[:1000]:
        raise DataError(
            f"it is of the earlier format {EARLIER!r}, expected {FORMAT!r}",
            file=path,
            fix=f"convert it with ctmr prepare {path} NEW_STORE",
        )
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(
            f"{MANIFEST_NAME} is not of {FORMAT!r}: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            file=path,
            fix="delete the store and prepare it again",
        ) from error


def _require_whole(store: Store) -> None:
    """Refuse an index that is longer or shorter than `store.json` says, or than the shards; its last record is read."""
    manifest, index = store.manifest, store.manifest.parts.get(INDEX_NAME)
    expected, shards = manifest.slices * RECORD.itemsize, manifest.shards
    if index is None or index.bytes != expected:
        found = "none" if index is None else f"{index.bytes}"
        raise DataError(
            f"expected {expected} bytes for {manifest.slices} slices, found {found}",
            file=store.path / INDEX_NAME,
            fix=RESTORE,
        )
    last = store.record(manifest.slices - 1)
    end = last.offset + 2 * last.height * last.width * manifest.channels
    part = manifest.parts.get(shard_name(last.shard))
    if last.shard != shards - 1 or part is None or part.bytes != end:
        raise DataError(
            f"expected {shards} shards up to the index's last slice, which ends at {end} of shard"
            f" {last.shard}",
            file=store.path / INDEX_NAME,
            fix=RESTORE,
        )


def with_settings(store: Store, config: DataConfig) -> Store:
    """The store, if it was made with the settings asked for.

    Raises:
        UsageError: If not.
    """
    made, asked = store.manifest, config
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
