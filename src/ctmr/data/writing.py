"""Writing a store: shards on all cores, kept when they are finished, and the whole moved to its place at the end."""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctmr.data.copies import Copies, sha256_of, write_copies
from ctmr.data.manifest import (
    COPIES_NAME,
    INDEX_NAME,
    MANIFEST_NAME,
    OVERLAP_NAME,
    TEXTS_NAME,
    Codes,
    Entry,
    Manifest,
    Overlap,
    shard_name,
)
from ctmr.data.parts import Parts, part_of
from ctmr.data.planning import Layout
from ctmr.data.records import NO_PATIENT, Record, checksum, packed
from ctmr.data.sources import Source
from ctmr.data.store import to_codes
from ctmr.data.survey import IMAGES_AT_ONCE, Survey, image_of_source, patient_of, read_volume
from ctmr.errors import DataError
from ctmr.imaging.resampling import resize
from ctmr.imaging.slices import head_slices
from ctmr.io.image_info import read_bytes
from ctmr.io.scan import content_hash
from ctmr.system.disks import sync
from ctmr.system.files import make_folder, write_bytes, write_text
from ctmr.system.parallel import Workers
from ctmr.types import FloatArray, Progress

CONSTANT = np.uint64(2**32)
"""Added to the checksum of a slice of one grey value."""
Marks = NDArray[np.uint64]
"""The checksum of each slice, and whether it is constant."""

logger = logging.getLogger(__name__)


class Piece(NamedTuple):
    """What one shard holds of one scan.

    Attributes:
        sha256: Of the scan.
        shape: What its slices are brought to.
        padded: What they are padded to.
        first: Its first slice that this shard holds.
        slices: How many it holds.
        offset: Where they begin in the shard, in bytes.
    """

    source: Source
    sha256: str
    shape: tuple[int, int]
    padded: tuple[int, int]
    first: int
    slices: int
    offset: int


class Batch(NamedTuple):
    """Some pieces of one shard.

    Attributes:
        file: Draft of the shard.
        start: Number of the first slice in the store.
        pieces: Of scans that follow each other.
    """

    file: Path
    start: int
    pieces: list[Piece]


class Filled(NamedTuple):
    """What was written of a batch."""

    start: int
    marks: Marks


def write_store(
    workers: Workers,
    draft: Path,
    manifest: Manifest,
    layout: Layout,
    found: Survey,
    *,
    progress: Progress | None,
) -> Manifest:
    """Write the shards and the index into `draft / "store"`, or what is not there yet.

    Args:
        workers: Who does it.
        draft: A folder that may hold what an earlier process has finished of the same store.
        manifest: What `store.json` is to say.
        layout: What becomes of each scan, and where its slices lie.
        found: The scans.
        progress: Called with the scans done, after as many of the first look, and twice their number.

    Returns:
        The manifest with all parts.

    Raises:
        CtmrError: If a scan changed since the first look.
        OSError: If something cannot be written.
    """
    _require_same_plan(draft, manifest, layout, found)
    shards = _Shards(draft, layout, found)
    scans = len(found.looks)
    for start, marks in workers.map(partial(_fill, manifest=manifest), shards.batches()):
        stop = start + len(marks)
        shards.take(start, marks)
        if progress is not None:
            progress(scans + int(np.searchsorted(layout.firsts, stop, "right")) - 1, 2 * scans)
    constant = int((shards.marks >= CONSTANT).sum())
    if constant:
        logger.warning("%d of %d images have one grey value only", constant, len(shards.marks))
    checksums = shards.marks.astype(np.uint32)
    entries = _entries(layout, found)
    index = write_index(shards.store, entries, layout.shards, layout.offsets, checksums)
    return manifest.model_copy(update={"parts": shards.parts | index})


class _Shards:
    """The shards of a draft: which are finished, what is to be written of the others."""

    def __init__(self, draft: Path, layout: Layout, found: Survey) -> None:
        self.store = draft / "store"
        self._draft, self._layout, self._found = draft, layout, found
        self.marks: Marks = np.zeros(len(layout.shards), np.uint64)
        self.parts: Parts = {}

    def batches(self) -> Iterator[Batch]:
        """The work on all shards that are not finished; the drafts of their files are made."""
        make_folder(self.store)
        for shard in range(int(self._layout.shards[-1]) + 1):
            slices = self._slices(shard)
            marks = self._finished(shard, slices)
            if marks is not None:
                self.marks[slices.start : slices.stop] = marks
                self.parts[shard_name(shard)] = part_of(self.store / shard_name(shard))
                continue
            file = self._draft / shard_name(shard)
            file.write_bytes(b"")
            pieces: list[Piece] = []
            start = slices.start
            for piece in self._pieces(slices):
                pieces.append(piece)
                if piece.source.kind != "image" or len(pieces) == IMAGES_AT_ONCE:
                    yield Batch(file, start, pieces)
                    start += sum(each.slices for each in pieces)
                    pieces = []
            if pieces:
                yield Batch(file, start, pieces)

    def take(self, start: int, marks: Marks) -> None:
        """Note what was written; what is the last of a shard finishes it."""
        stop = start + len(marks)
        self.marks[start:stop] = marks
        shard = int(self._layout.shards[start])
        slices = self._slices(shard)
        if stop < slices.stop:
            return
        name = shard_name(shard)
        sync(self._draft / name)
        self.parts[name] = part_of(self._draft / name)
        write_bytes(self._marks_file(shard), self.marks[slices.start : stop].tobytes())
        (self._draft / name).replace(self.store / name)
        sync(self.store)

    def _finished(self, shard: int, slices: range) -> Marks | None:
        """What an earlier process noted of a shard that it finished, if it still holds that."""
        try:
            marks = np.frombuffer(self._marks_file(shard).read_bytes(), np.uint64)
            with (self.store / shard_name(shard)).open("rb") as stream:
                content = stream.read()
        except OSError:
            return None
        places = self._layout.offsets[slices.start : slices.stop].tolist()
        ends = [*places[1:], len(content)]
        whole = memoryview(content)
        found = [checksum(whole[at:end]) for at, end in zip(places, ends, strict=True)]
        return marks if marks.astype(np.uint32).tolist() == found else None

    def _marks_file(self, shard: int) -> Path:
        return self._draft / f"{shard:05d}.marks"

    def _slices(self, shard: int) -> range:
        start, stop = np.searchsorted(self._layout.shards, (shard, shard + 1))
        return range(int(start), int(stop))

    def _pieces(self, slices: range) -> Iterator[Piece]:
        """What a shard holds of each scan."""
        layout = self._layout
        scan = int(np.searchsorted(layout.firsts, slices.start, "right")) - 1
        start = slices.start
        while start < slices.stop:
            first, after = int(layout.firsts[scan]), int(layout.firsts[scan + 1])
            stop = min(after, slices.stop)
            yield Piece(
                source=self._found.sources[scan],
                sha256=self._found.looks[scan].sha256,
                shape=_pair(layout.shapes[scan]),
                padded=_pair(layout.padded[scan]),
                first=start - first,
                slices=stop - start,
                offset=int(layout.offsets[start]),
            )
            start, scan = stop, scan + 1


def _pair(row: NDArray[np.uint32]) -> tuple[int, int]:
    return int(row[0]), int(row[1])


def _require_same_plan(draft: Path, manifest: Manifest, layout: Layout, found: Survey) -> None:
    """Empty a draft of another plan, of another version of ctmr or of a damaged disk."""
    plan = hashlib.sha256(manifest.as_json().encode())
    for array in (layout.shapes, layout.padded, layout.firsts, layout.shards, layout.offsets):
        plan.update(array.tobytes())
    for look in found.looks:
        plan.update(bytes.fromhex(look.sha256))
    try:
        same = (draft / "plan").read_text() == plan.hexdigest()
    except (OSError, ValueError):
        same = False
    if not same:
        shutil.rmtree(draft, ignore_errors=True)
        make_folder(draft)
        write_text(draft / "plan", plan.hexdigest())


def _fill(batch: Batch, manifest: Manifest) -> Filled:
    """Write the slices of some pieces at their places in a shard."""
    marks = []
    with batch.file.open("r+b") as stream:
        for piece in batch.pieces:
            stream.seek(piece.offset)
            for image in _codes(piece, manifest):
                content = image.tobytes()
                stream.write(content)
                constant = np.all(image == image[:1, :1])
                marks.append(checksum(content) + (int(CONSTANT) if constant else 0))
    return Filled(batch.start, np.array(marks, np.uint64))


def _codes(piece: Piece, manifest: Manifest) -> Iterator[Codes]:
    """The slices of a piece as they lie in the store, each (H, W, C)."""
    source = piece.source
    if source.kind == "image":
        arrays = [_image(piece, manifest)]
    else:
        if content_hash(source.path, source.kind, source.files) != piece.sha256:
            raise _changed(source)
        volume = read_volume(source).volume
        anyway = source.reading.anyway
        found = head_slices(volume, source.modality, manifest.scale, manifest.size, anyway=anyway)
        intensity = manifest.intensities[source.modality][volume.encoding].fitted(found.head.values)
        arrays = [array[..., None] for array in found.images(intensity)]
        arrays = arrays[piece.first : piece.first + piece.slices]
    rows, columns = (piece.padded[n] - piece.shape[n] for n in (0, 1))
    around = ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0))
    for array in arrays:
        codes = to_codes(np.pad(array, around, constant_values=-1.0))
        yield np.broadcast_to(codes, (*piece.padded, manifest.channels))  # grey: repeated


def _image(piece: Piece, manifest: Manifest) -> FloatArray:
    """One image (h, w, 1 or 3) in [-1, 1], at the store's scale."""
    source = piece.source
    content = read_bytes(source.path)
    if hashlib.sha256(content).hexdigest() != piece.sha256:
        raise _changed(source)
    image = image_of_source(source, content, 1 if manifest.channels == 1 else None)
    intensity = manifest.intensities[source.modality][image.encoding]
    array = intensity.fitted(image.grey).to_unit(resize(image.array, *piece.shape))
    return array.reshape(*piece.shape, -1)


def _changed(source: Source) -> DataError:
    return DataError("the file changed while it was read", file=source.path, fix="run it again")


def _entries(layout: Layout, found: Survey) -> Iterator[Entry]:
    """What the index is to say of each slice."""
    for scan, (source, look) in enumerate(found):
        patient = patient_of(source, look)
        padded = _pair(layout.padded[scan])
        for n, mm in enumerate(look.heights_mm or (None,)):
            name = source.name if mm is None else f"{source.name}#{n:03d}"
            yield Entry(name, patient, *padded, look.sha256, mm)


def write_index(
    store: Path,
    entries: Iterable[Entry],
    shards: NDArray[np.uint32],
    offsets: NDArray[np.uint32],
    checksums: NDArray[np.uint32],
) -> Parts:
    """Write a record of each slice, and their names.

    Args:
        store: Folder of the store.
        entries: The slices.
        shards: The shard of each.
        offsets: Where each begins in it, in bytes.
        checksums: Of their bytes.

    Raises:
        OSError: If something cannot be written.
    """
    text_at = 0
    with (store / INDEX_NAME).open("wb") as index, (store / TEXTS_NAME).open("wb") as texts:
        for n, entry in enumerate(entries):
            name, patient = entry.name.encode(), (entry.patient or "").encode()
            record = Record(
                shard=int(shards[n]),
                offset=int(offsets[n]),
                height=entry.height,
                width=entry.width,
                checksum=int(checksums[n]),
                name_bytes=len(name),
                patient_bytes=NO_PATIENT if entry.patient is None else len(patient),
                text_at=text_at,
                height_mm=math.nan if entry.height_mm is None else entry.height_mm,
                sha256=bytes.fromhex(entry.sha256),
            )
            index.write(packed(record))
            texts.write(name + patient)
            text_at += len(name) + len(patient)
    names = INDEX_NAME, TEXTS_NAME
    for each in names:
        sync(store / each)
    return {each: part_of(store / each) for each in names}


def publish(
    draft: Path,
    place: Path,
    manifest: Manifest,
    overlaps: Sequence[Overlap],
    files: Mapping[str, Path],
) -> None:
    """Put what else belongs to a store beside its shards, and move it to its place.

    Args:
        draft: With the store in it.
        place: Where nothing, or an empty folder, is.
        manifest: What `store.json` is to say, the other parts included.
        overlaps: Of test and training images.
        files: What is kept beside the slices, by its path below the store.

    Raises:
        OSError: If something cannot be written.
        DataError: If a file cannot be read.
    """
    store = draft / "store"
    write_copies(store, files)
    copies: Copies = {name: sha256_of(store / name) for name in files}
    parts = manifest.parts.copy()
    for name, content in ((OVERLAP_NAME, [asdict(o) for o in overlaps]), (COPIES_NAME, copies)):
        if content:
            write_text(store / name, json.dumps(content, indent=1) + "\n")
            parts[name] = part_of(store / name)
    manifest = manifest.model_copy(update={"parts": dict(sorted(parts.items()))})
    write_text(store / MANIFEST_NAME, manifest.as_json())
    try:
        store.rename(place)
    except OSError:
        if not (place / MANIFEST_NAME).is_file():
            raise
    sync(place.parent)
