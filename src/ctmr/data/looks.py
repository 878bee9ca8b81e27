"""What the first look at each scan found, in 60 bytes of memory for each."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, get_args, overload

from ctmr.types import Encoding, Spacing

ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
FLAGS = ("colour", "transparent", "headless", "foreign", "signed")
_LAYOUT = struct.Struct("<32sIIddBB")
_NO_SPACING: Spacing = (0.0, 0.0)


@dataclass(frozen=True, eq=False, slots=True)
class Look:
    """What the first look at one scan found; the pixels are not kept.

    Attributes:
        sha256: Of the content.
        shape: Of the image; of a volume, of the window that is kept of its slices.
        spacing_mm: Of an image that has one.
        encoding: What decides the map to [-1, 1].
        headless: Whether no head is found in it.
        foreign: Whether only `--anyway` lets it in, as another modality or no scan.
        signed: Whether its values are taken for HU by their looks alone.
        patient: Of a DICOM series, a hash of its patient's identity.
        heights_mm: Of a volume's slices that are kept, below the top of the head.
        notes: What a series lacks, or what was left out of it.
    """

    sha256: str
    shape: tuple[int, int]
    spacing_mm: Spacing | None
    encoding: Encoding
    colour: bool = False
    transparent: bool = False
    headless: bool = False
    foreign: bool = False
    signed: bool = False
    patient: str | None = None
    heights_mm: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def flags(self) -> int:
        """One bit for each of `FLAGS`."""
        told = (self.colour, self.transparent, self.headless, self.foreign, self.signed)
        return sum(each << bit for bit, each in enumerate(told))

    @property
    def slices(self) -> int:
        """How many slices it gives."""
        return len(self.heights_mm or (None,))


class _More(NamedTuple):
    """What few scans have."""

    patient: str | None
    heights_mm: tuple[float, ...] | None
    notes: tuple[str, ...]


_NO_MORE = _More(None, None, ())


class Looks(Sequence[Look]):
    """Looks, packed."""

    def __init__(self) -> None:
        self._packed = bytearray()
        self._more: dict[int, _More] = {}

    def __len__(self) -> int:
        return len(self._packed) // _LAYOUT.size

    @overload
    def __getitem__(self, place: int) -> Look: ...
    @overload
    def __getitem__(self, place: slice) -> list[Look]: ...
    def __getitem__(self, place: int | slice) -> Look | list[Look]:
        if isinstance(place, slice):
            return [self[n] for n in range(len(self))[place]]
        place = range(len(self))[place]
        sha256, rows, columns, row_mm, column_mm, encoding, flags = _LAYOUT.unpack_from(
            self._packed, place * _LAYOUT.size
        )
        colour, transparent, headless, foreign, signed = (bool(flags >> n & 1) for n in range(5))
        more = self._more.get(place, _NO_MORE)
        return Look(
            sha256=sha256.hex(),
            shape=(rows, columns),
            spacing_mm=(row_mm, column_mm) if (row_mm, column_mm) != _NO_SPACING else None,
            encoding=ENCODINGS[encoding],
            colour=colour,
            transparent=transparent,
            headless=headless,
            foreign=foreign,
            signed=signed,
            patient=more.patient,
            heights_mm=more.heights_mm,
            notes=more.notes,
        )

    def __iter__(self) -> Iterator[Look]:
        return map(self.__getitem__, range(len(self)))

    def append(self, look: Look) -> None:
        """Add one."""
        more = _More(look.patient, look.heights_mm, look.notes)
        if more != _NO_MORE:
            self._more[len(self)] = more
        spacing_mm = look.spacing_mm or _NO_SPACING
        encoding = ENCODINGS.index(look.encoding)
        fixed = bytes.fromhex(look.sha256), *look.shape, *spacing_mm, encoding, look.flags
        self._packed += _LAYOUT.pack(*fixed)
