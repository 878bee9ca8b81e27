"""What all volume files have in common: bytes read within bounds, voxels as finite float32, and axes that are certain."""

import bz2
import contextlib
import gzip
import logging
import math
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
from isal import igzip, isal_zlib
from numpy.typing import NDArray

from ctmr.errors import CtmrError, DataError, SafetyError, printable
from ctmr.imaging.head import air_for_missing
from ctmr.imaging.volume import Volume, is_exact, pieces
from ctmr.system.memory import require_memory
from ctmr.system.parallel import one_ahead
from ctmr.types import FloatArray, Matrix

Geometry = Literal["sform", "qform", "RAS", "LAS", "LPS"]
Packing = Literal["none", "zlib", "gzip", "bzip2"]
Read = Callable[[int], bytes]

MAX_BYTES = 4 * 2**30  # of a file, and of its voxels both as stored and as float32
MAX_HEADER_BYTES = 2**20
SIGNS = {"RAS": (1, 1, 1), "LAS": (-1, 1, 1), "LPS": (-1, -1, 1)}
COPY = "copy or download the file again"
EXTRACT = "extract one 3-D volume of real numbers and give that"
EXPORT = "write the file again with the program that made it"

_PART = 2**16  # bytes read at a time
_LEVEL = 1  # of 0 to 3: as small as level 1 of zlib in a tenth to a quarter of its time
SLAB = 8  # slices that are written at a time
_GZIP = 31  # window bits of zlib: a header of gzip
_ZLIB_OR_GZIP = 47  # window bits of zlib: it tells the two apart

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Header:
    """What the header of a volume file says of its voxels.

    Attributes:
        shape: (I, J, K), I fastest.
        dtype: Of the voxels as stored.
        offset: Bytes of the file before the voxels.
        sides_mm: Voxel size along I, J and K.
        affine: Voxel indices -> mm, (4, 4), RAS+; None where nothing says how the axes run.
        packing: How the voxels are compressed.
        more: Most bytes that may follow the voxels; they are not looked at.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    sides_mm: NDArray[np.float64]
    affine: Matrix | None
    packing: Packing = "none"
    more: int = 0


Parse = Callable[[bytes, Path], Header]


def read_voxels(path: Path, parse: Parse, geometry: Geometry | None, *, gzipped: bool) -> Volume:
    """The volume in a file that is a header and voxels; the header is judged before a voxel is read.

    Args:
        path: The file.
        parse: What its first `MAX_HEADER_BYTES` say; raises `CtmrError`, or `ValueError` where they make no sense.
        geometry: How the axes run if the header does not say it; `sform` and `qform` are of NIfTI only, and ignored.
        gzipped: Whether the whole file, header too, is compressed.

    Raises:
        DataError: If it is not an intact file of one 3-D volume of finite real numbers.
        SafetyError: If the header leaves open where left and right are.
    """
    data = bytearray()
    with reading(path), open_regular(path, gzipped=gzipped) as stream:
        head = bytearray()
        fill(head, stream.read, MAX_HEADER_BYTES)
        try:
            header = parse(bytes(head), path)
        except ValueError as error:
            what = f"expected a header that makes sense: found {type(error).__name__} in it"
            raise DataError(what, file=path, fix=EXPORT) from error
        require_shape(header.shape, header.dtype.itemsize, path)
        affine = _place(header, geometry, path)
        expected = math.prod(header.shape) * header.dtype.itemsize
        require_memory(expected + 4 * math.prod(header.shape), path)
        stream.seek(header.offset)
        read = _unpacked(stream, header.packing)
        fill(data, read, expected)
        require(len(data) == expected, f"{expected} bytes of voxels", str(len(data)), path, COPY)
        rest = bytearray()
        fill(rest, read, header.more + 1)  # to the end, where the checksum is
    found = f"{len(rest)} or more behind them"
    require(len(rest) <= header.more, f"{expected} bytes of voxels", found, path, COPY)
    stored = np.frombuffer(data, header.dtype).reshape(header.shape, order="F")
    return Volume(float_voxels(stored, path), affine)


def require(
    check: bool, expected: str, found: str, path: Path, fix: str, kind: type[CtmrError] = DataError
) -> None:
    """Raise the error, of what was expected and found in a file, unless the check is met."""
    if not check:
        raise kind(f"expected {expected}: found {printable(found)}", file=path, fix=fix)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the system and decompressors say of a file into an error of ctmr."""
    try:
        yield
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        what = f"expected intact compressed data: found {str(error)!r}"
        raise DataError(printable(what), file=path, fix=COPY) from error
    except OSError as error:
        what = f"cannot read it ({error.strerror or error})"
        raise DataError(printable(what), file=path, fix="check the path and permissions") from error


def open_regular(path: Path, *, gzipped: bool = False) -> BinaryIO:
    """The bytes of a regular file within `MAX_BYTES`; `gzipped`: it must be gzip, and is inflated.

    Raises:
        DataError: If it is none.
        OSError: If it cannot be opened.
    """
    status = path.stat()  # first: to open a FIFO would wait for ever
    is_file = stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES
    found = f"{status.st_size} bytes, type {stat.filemode(status.st_mode)[0]!r}"
    require(is_file, f"a regular file of at most {MAX_BYTES} bytes", found, path, "give a file")
    if not gzipped:
        return path.open("rb")
    with path.open("rb") as stream:
        is_gzip = stream.read(2) == b"\x1f\x8b"
    require(is_gzip, "gzip", "none", path, "give the file the suffix of its content")
    return cast(BinaryIO, gzip.open(path))


def fill(data: bytearray, read: Read, size: int) -> None:
    """Append to `data` until it has `size` bytes or the stream ends."""
    while len(data) < size and (part := read(min(size - len(data), _PART))):
        data += part


def require_shape(shape: tuple[int, ...], itemsize: int, path: Path) -> None:
    """Refuse what is no 3-D volume, or one beyond `MAX_BYTES`, by its header.

    Raises:
        DataError: With the shape.
    """
    is_3d = len(shape) == 3 and min(shape) > 0
    require(is_3d, "one 3-D volume", f"dimensions {shape}"[:80], path, EXTRACT)
    fits = math.prod(shape) * max(itemsize, 4) <= MAX_BYTES
    require(fits, f"at most {MAX_BYTES} bytes", f"{shape} voxels"[:80], path, "crop the scan")


def float_voxels(
    stored: NDArray[Any], path: Path, slope: float = 1.0, intercept: float = 0.0
) -> NDArray[Any]:
    """Stored voxels (I, J, K), scaled, as a `Volume` has them; those outside the head that are not finite become air.

    Args:
        stored: They are overwritten if they are float32.
        path: Of their file.
        slope: Of the scaling.
        intercept: Of the scaling.

    Raises:
        DataError: If one in the head is not finite.
    """
    if stored.dtype.kind in "iu" and (slope, intercept) == (1.0, 0.0):  # they are finite
        if is_exact(stored.dtype):
            return stored.astype(stored.dtype.newbyteorder("="), copy=False)
        return stored.astype(np.float32)  # rounded once as by way of float64
    array = stored if stored.dtype == np.float32 else np.empty(stored.shape, np.float32, order="F")
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(stored.shape[2]):  # a slice at a time, for its copy in double precision
            array[..., k] = stored[..., k].astype(np.float64) * slope + intercept
    if all(np.isfinite(some).all() for some in pieces(array)):
        return array
    array, share = air_for_missing(array)
    if share:
        logger.warning(
            "%s: %.3g %% of the voxels are NaN or infinite, outside the head: taken as air",
            printable(str(path)),
            100 * share,
        )
    wrong = array.size - np.count_nonzero(np.isfinite(array))
    found = f"{wrong} of {array.size} that are NaN, infinite or beyond float32"
    fix = "replace them by values of tissue"
    require(wrong == 0, "finite voxels in the head", found, path, fix)
    return array


def stored_voxels(volume: Volume) -> NDArray[np.int16] | FloatArray:
    """Voxels as they are written: a CT as int16 HU, rounded half to even and clipped; an MR as float32.

    Raises:
        ValueError: If the modality is not known, or a value is not finite.
    """
    if volume.modality is None or not np.isfinite(volume.array).all():
        raise ValueError(f"volume must be a CT or an MR of finite values: got {volume!r}")
    if volume.modality == "ct":
        return np.rint(volume.array).clip(-(2**15), 2**15 - 1).astype(np.int16)
    return volume.in_float().array


def slabs_of(volume: Volume) -> Iterator[FloatArray]:
    """The voxels (I, J, n), some slices at a time."""
    for start in range(0, volume.array.shape[2], SLAB):
        yield volume.array[:, :, start : start + SLAB]


def voxel_parts(volume: Volume, slabs: Iterable[FloatArray]) -> Iterator[bytes]:
    """The bytes of `stored_voxels`, little-endian, I fastest, some slices at a time, so that no copy is of the whole.

    Args:
        volume: What the voxels are of; its own are not looked at.
        slabs: (I, J, n) of it, in order.

    Raises:
        ValueError: See `stored_voxels`.
    """

    def part(slab: FloatArray) -> bytes:
        array = stored_voxels(replace(volume, array=slab))
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes("F")

    return one_ahead(part, slabs)


def packed(content: bytes, packing: Literal["zlib", "gzip"]) -> bytes:
    """The bytes compressed, gzip without name and time: the same for the same bytes on one kind of processor.

    By ISA-L, which is only trusted to write: what is read may be damaged, and is left to zlib.
    """
    if packing == "gzip":
        return igzip.compress(content, _LEVEL, mtime=0)
    return isal_zlib.compress(content, _LEVEL)


def gzipped(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The parts as one gzip member, without name and time, packed in a thread; see `packed`."""
    packer = isal_zlib.compressobj(_LEVEL, wbits=_GZIP)
    yield from one_ahead(packer.compress, parts)
    yield packer.flush()


def affine_of_axes(axes: Matrix, first_mm: NDArray[np.float64], space: str) -> Matrix:
    """The affine, RAS+.

    Args:
        axes: (3, 3), a column an axis of the array: mm from a voxel to the next.
        first_mm: Where the first voxel lies.
        space: What the numbers mean: `RAS`, `LAS` or `LPS`.
    """
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, first_mm
    return np.diag([*map(float, SIGNS[space]), 1.0]) @ affine


def is_sound(matrix: Matrix) -> bool:
    """Whether an affine is finite and its axes span a space."""
    if not np.isfinite(matrix).all():
        return False
    volume = float(np.prod(np.linalg.norm(matrix[:3, :3], axis=0)))  # if at right angles
    return bool(abs(np.linalg.det(matrix[:3, :3])) > max(1e-9, 0.1 * volume))


def warn_of_clear_header(geometry: Geometry) -> None:
    """Say that a header which is clear is believed; without a file, so that a program says it once for all."""
    logger.warning(
        "a header that says how its axes run is believed: --geometry %s is for others", geometry
    )


def centred_axes(
    sides_mm: NDArray[np.float64], shape: tuple[int, ...], geometry: Geometry
) -> Matrix:
    """The affine of axes that run as `geometry` says, with the origin at the grid's centre."""
    affine = np.diag([*(sides_mm * SIGNS[geometry]), 1.0])
    affine[:3, 3] = affine[:3, :3] @ (1 - np.asarray(shape[:3])) / 2
    return affine


@np.errstate(invalid="ignore", over="ignore")  # what is not finite is refused
def _place(header: Header, geometry: Geometry | None, path: Path) -> Matrix:
    """The affine of the header, or that of axes the user vouches for."""
    sides = header.sides_mm
    is_sized = bool(sides.shape == (3,) and (sides > 1e-6).all() and (sides < 1e6).all())
    require(is_sized, "voxel sizes over 0 mm", str(sides)[:80], path, EXPORT, SafetyError)
    if header.affine is not None:
        require(is_sound(header.affine), "three axes", "others", path, EXPORT, SafetyError)
        if geometry in SIGNS:
            warn_of_clear_header(geometry)
        return header.affine
    fix = f"give `--geometry {' or '.join(SIGNS)}` if you know that it is right"
    expected = "a header that says how the axes lie in the patient"
    given = geometry is not None and geometry in SIGNS
    require(given, expected, "none, so that left and right are unknown", path, fix, SafetyError)
    return centred_axes(sides, header.shape, geometry or "RAS")


def _unpacked(stream: BinaryIO, packing: Packing) -> Read:
    """What reads the voxels from where the stream is, never more bytes at once than asked for."""
    if packing == "gzip":
        return gzip.GzipFile(fileobj=stream).read1
    if packing == "bzip2":
        return bz2.BZ2File(stream).read1
    return stream.read if packing == "none" else _inflated(stream)


def _inflated(stream: BinaryIO) -> Read:
    inflater = zlib.decompressobj(_ZLIB_OR_GZIP)

    def read(size: int) -> bytes:
        while not inflater.eof:
            packed = inflater.unconsumed_tail or stream.read(_PART)
            part = inflater.decompress(packed, size)
            if part or inflater.eof:
                return part
            if not packed:
                raise EOFError("it ends before the end of the compressed data")
        return b""

    return read


def numbers(text: str, count: int) -> NDArray[np.float64]:
    """So many numbers of a header, with spaces or commas between.

    Raises:
        ValueError: If they are no numbers, or of another count.
    """
    found = np.array([float(word) for word in text.replace(",", " ").split()])
    if found.size != count:
        raise ValueError(f"expected {count} numbers")
    return found
