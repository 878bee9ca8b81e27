"""What `store.json` says of a store of prepared slices, and what its files are called."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from pydantic.dataclasses import dataclass

from ctmr.data.parts import Parts
from ctmr.imaging.intensity import Intensities
from ctmr.imaging.resampling import Scale
from ctmr.types import MODALITIES, SPLITS, CtWindow, Modality, Split

FORMAT: Literal["ctmr store 4"] = "ctmr store 4"
EARLIER = "ctmr store 3"
MANIFEST_NAME = "store.json"
INDEX_NAME, TEXTS_NAME = "index.bin", "names.bin"
OVERLAP_NAME, COPIES_NAME = "overlap.json", "copies.json"
SHARD_BYTES = 2**28
MAX_MANIFEST_BYTES = 2**26
Codes = NDArray[np.uint16]


@dataclass(frozen=True)
class Entry:
    """One slice of the store.

    Attributes:
        name: File name it came from; of a volume's slice, with its number behind.
        patient: What `data.patient_pattern` found in its path.
        height: Pixels at the store's scale.
        width: Likewise.
        sha256: Of the scan that it came from.
        height_mm: Of a volume's slice, its distance below the top of the head.
    """

    name: str
    patient: str | None
    height: int
    width: int
    sha256: str
    height_mm: float | None = None


@dataclass(frozen=True)
class Overlap:
    """A training and a test image (`folder/name`) that are one file's content or one patient's."""

    train: str
    test: str
    why: Literal["identical", "patient"]


class Manifest(BaseModel):
    """What `store.json` holds: no more for many slices than for few."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format: Literal["ctmr store 4"] = FORMAT
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
    counts: dict[Split, dict[Modality, int]]
    """Slices of each folder; so they follow each other in the index and in the shards."""
    heights: bool
    """Whether all training slices are of volumes, whose heights are known."""
    overlap: dict[str, int]
    """How many test images are in the training folders too, by reason (`overlap.json` names them)."""
    reading: dict[str, Any] = {}
    """The reading options that the user gave (`ctmr.io.reading`)."""

    let_in: dict[str, int] = {}
    """How many scans only `--anyway` let in, by reason."""

    parts: Parts = {}
    """Each other file of the store; not those that were copied into it, which `copies.json` names."""

    def as_json(self) -> str:
        """The text of `store.json`; what the reading options did is left out where none was given."""
        empty = {name for name in ("reading", "let_in") if not getattr(self, name)}
        return self.model_dump_json(indent=1, exclude=empty) + "\n"

    @property
    def slices(self) -> int:
        """How many there are in all."""
        return sum(sum(by_modality.values()) for by_modality in self.counts.values())

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return sum(name.startswith("slices-") for name in self.parts)

    def numbers(self, split: Split, modality: Modality) -> range:
        """The places of a folder's slices in the index."""
        start = 0
        for s in SPLITS:
            for m in MODALITIES:
                count = self.counts.get(s, {}).get(m, 0)
                if (s, m) == (split, modality):
                    return range(start, start + count)
                start += count
        raise ValueError(f"no such folder: {split} {modality}")


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"slices-{number:05d}.u16"
