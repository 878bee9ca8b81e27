"""A store of the earlier format as one of the present one."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ctmr.data.copies import Copies, require_copies, sha256_of
from ctmr.data.drafts import draft_of
from ctmr.data.manifest import EARLIER, MANIFEST_NAME, Entry, Manifest, Overlap, shard_name
from ctmr.data.parts import Parts, part_of
from ctmr.data.planning import shards_of
from ctmr.data.records import checksum
from ctmr.data.store import Store, open_store
from ctmr.data.writing import publish, write_index
from ctmr.errors import DataError, OutputError
from ctmr.system.disks import sync
from ctmr.system.files import make_folder, require_empty, write_text
from ctmr.types import MODALITIES, SPLITS

SLICES_NAME = "slices.u16"
_DROPPED = ("format", "entries", "overlap", "slices_sha256", "copies")


def is_earlier(path: Path) -> bool:
    """Whether a folder is a store of the earlier format."""
    try:
        with (path / MANIFEST_NAME).open("rb") as stream:
            return f'"format": "{EARLIER}"'.encode() in stream.read(1000)
    except OSError:
        return False


def convert(earlier: Path, place: Path) -> Store:
    """Write a store of the earlier format anew: the same slices in the same order, and the same fingerprint.

    Args:
        earlier: Its folder, which stays as it is.
        place: New or empty folder.

    Raises:
        DataError: If the store is damaged.
        OutputError: If `place` is not empty or cannot be written.
    """
    require_empty(place)
    content = _content(earlier)
    entries = [Entry(**_without(each, "offset")) for each in _entries(content)]
    copies = Copies(content.get("copies", {}))
    require_copies(earlier, copies)
    try:
        with draft_of(place, content["fingerprint"]) as draft:
            shutil.rmtree(draft, ignore_errors=True)
            store = draft / "store"
            make_folder(store)
            write_text(draft / "plan", "converted")
            parts = _write(earlier / SLICES_NAME, store, entries, content["channels"])
            overlaps = [Overlap(**each) for each in content["overlap"]]
            manifest = _manifest(content, entries, overlaps, parts)
            files = {name: earlier / name for name in copies}
            publish(draft, place, manifest, overlaps, files)
    except OSError as error:
        raise OutputError(
            f"cannot write the store ({error.strerror})",
            file=place,
            fix="check space and permissions",
        ) from error
    return open_store(place)


def _content(earlier: Path) -> dict[str, Any]:
    """What the `store.json` says, once the slices are found to be those that it names."""
    try:
        content: dict[str, Any] = json.loads((earlier / MANIFEST_NAME).read_bytes())
        expected = content["slices_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(earlier / MANIFEST_NAME, "it cannot be understood") from error
    if sha256_of(earlier / SLICES_NAME) != expected:
        raise _damaged(earlier / SLICES_NAME, "its slices are not what was written")
    return content


def _damaged(file: Path, what: str) -> DataError:
    return DataError(f"damaged: {what}", file=file, fix="prepare the data again")


def _entries(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The slices in the order of the folders."""
    for split in SPLITS:
        for modality in MODALITIES:
            yield from content["entries"].get(split, {}).get(modality, ())


def _without(content: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in names}


def _manifest(
    content: dict[str, Any], entries: list[Entry], overlaps: list[Overlap], parts: Parts
) -> Manifest:
    counts = {
        s: {m: len(content["entries"].get(s, {}).get(m, ())) for m in MODALITIES} for s in SPLITS
    }
    train = entries[: sum(counts["train"].values())]
    return Manifest(
        **_without(content, *_DROPPED),
        counts=counts,
        heights=all(entry.height_mm is not None for entry in train),
        overlap=dict(Counter(each.why for each in overlaps)),
        parts=parts,
    )


def _write(slices: Path, store: Path, entries: list[Entry], channels: int) -> Parts:
    """Copy the slices into shards, and write their index."""
    lengths = np.array([2 * e.height * e.width * channels for e in entries], np.int64)
    shards, offsets = shards_of(lengths)
    checksums = np.empty(len(entries), np.uint32)
    parts: Parts = {}
    with slices.open("rb") as stream:
        for shard in range(int(shards[-1]) + 1):
            file = store / shard_name(shard)
            with file.open("wb") as out:
                for n in np.flatnonzero(shards == shard):
                    content = stream.read(int(lengths[n]))
                    checksums[n] = checksum(content)
                    out.write(content)
            sync(file)
            parts[file.name] = part_of(file)
    return parts | write_index(store, entries, shards, offsets, checksums)
