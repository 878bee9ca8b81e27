"""What the pixels of a DICOM slice mean: from compressed bytes to HU or MR units, padding to air."""

import struct
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray
from pydicom import Dataset, dcmread, uid
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder

from ctmr.imaging.ct_values import AIR_HU
from ctmr.io.dicom.header import COPY_AGAIN, LAYOUT, NATIVE, SliceFile, parsing, require
from ctmr.types import BoolArray

AIR_TOP_HU = -900.0  # no tissue but lung is below
MAX_TILES = 4096  # of a JPEG 2000 image; its decoder takes some kB for each
# Second bytes of the markers that begin a frame header, in JPEG (ISO/IEC 10918-1 B.1.1.3) and JPEG-LS.
_SOF = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7)


class Pixels(NamedTuple):
    """A slice in HU or MR units."""

    array: NDArray[np.float64]
    """(rows, columns)"""
    distrusted: int
    """Pixels that PixelPaddingValue (0028,0120) calls padding but that lie within the picture: kept as they are."""


def read_units(image: SliceFile, *, vouched: bool = False) -> Pixels:
    """The slice in HU or MR units; padding becomes air.

    Args:
        image: A slice that was checked.
        vouched: Its values may be in any unit: padding becomes the lowest of them.

    Raises:
        DataError: If there is no decoder for its pixels, or they are damaged or of another size.
    """
    values = image.values
    raw = _pixels(image)
    spare = values["BitsAllocated"] - values["BitsStored"]
    stored = raw << spare >> spare  # drops overlays above BitsStored and extends the sign
    padded, fits = np.zeros(raw.shape, bool), True
    if values.get("PixelPaddingValue") is not None:
        with parsing(image.path):
            pads = [int(values["PixelPaddingValue"])]
            pads.append(int(values.get("PixelPaddingRangeLimit", pads[0])))
        low, high = sorted(np.array(pads, np.int64).astype(raw.dtype))  # two's complement of any VR
        fits = all(pad << spare >> spare == pad for pad in (low, high))
        cells = stored if fits else raw
        padded = (low <= cells) & (cells <= high)
    if values["PhotometricInterpretation"] == "MONOCHROME1":
        stored = (-1 if values["PixelRepresentation"] else 2 ** values["BitsStored"] - 1) - stored
    slope, intercept = image.rescale
    units: NDArray[np.float64] = stored.astype(np.float64) * slope + intercept
    if not padded.any():
        return Pixels(units, 0)
    ct = values["Modality"] == "CT"
    air = float(units[~padded].min(initial=np.inf)) if vouched and not padded.all() else 0.0
    air = AIR_HU if ct and not vouched else air
    lowest = AIR_TOP_HU if ct and not vouched else _background(units[~padded])
    trusted = _padding(padded, units, lowest) if fits else padded  # no tissue is beyond the bits
    units[trusted] = air
    return Pixels(units, int((padded & ~trusted).sum()))


def _background(units: NDArray[np.float64]) -> float:
    """What only background is below, of pixels that are no padding."""
    return float(np.percentile(units, 1)) if units.size else float("inf")


def _padding(padded: BoolArray, units: NDArray[np.float64], lowest: float) -> BoolArray:
    """Which pixels are padding: with values of no tissue, or of one value, and connected with a corner of the image.

    Scanners pad what lies outside the circle or box that they reconstruct, never a part of the head.
    """
    doubtful = padded & (units > lowest)
    if not doubtful.any():
        return padded
    labels, _ = scipy.ndimage.label(padded)
    corners = labels[[0, 0, -1, -1], [0, -1, 0, -1]]
    outside = np.isin(labels, corners[corners > 0])
    if np.unique(units[outside & doubtful]).size > 1:  # a range of values that is no padding
        outside = np.zeros_like(outside)
    return np.asarray(padded & (~doubtful | outside))


def _pixels(image: SliceFile) -> NDArray[np.signedinteger[Any] | np.unsignedinteger[Any]]:
    """The pixels (rows, columns) as stored, decompressed within what the header says."""
    path, syntax, values = image.path, image.syntax, image.values
    rows, columns, bits = values["Rows"], values["Columns"], values["BitsAllocated"]
    plugin = "" if syntax in NATIVE else "pydicom" if syntax == uid.RLELossless else "pylibjpeg"
    name = "an unknown one" if syntax.name == syntax else f"{syntax.name} ({syntax})"
    what = f"expected a transfer syntax with a decoder: found {name} without"
    fix = "`pip install 'ctmr[jpeg]'` (pylibjpeg-libjpeg) for JPEG and JPEG-LS, else decompress it"
    require(not plugin or _has_decoder(syntax, plugin), what, path, fix)
    n, count = image.frame or 0, 1 if image.frame is None else int(values["NumberOfFrames"])
    with parsing(path):
        found = image.read() if image.read else _read(path)
        data = memoryview(found.PixelData if "PixelData" in found else b"")
    expected = rows * columns * bits // 8
    what = f"expected {count * expected} bytes of PixelData (7FE0,0010): found {len(data)}"
    require(bool(plugin) or len(data) >= count * expected, what, path, COPY_AGAIN)
    if plugin:
        what = (
            f"expected compressed PixelData (7FE0,0010) of {rows} x {columns}: found another size"
        )
        with parsing(path):
            frame = get_frame(bytes(data), n, number_of_frames=count)
            if plugin == "pydicom":
                fits = _fits_rle(frame, rows * columns, bits // 8)
            else:
                fits = _coded_size(frame) == (rows, columns)
        fits = fits and len(data) <= count * (2 * expected + 2**16)
        require(fits, what, path, COPY_AGAIN)
    with parsing(path):
        kind = np.dtype(f"<{'i' if values['PixelRepresentation'] else 'u'}{bits // 8}")
        if plugin or syntax == uid.ExplicitVRBigEndian:
            array, _ = get_decoder(syntax).as_array(
                found, index=n, raw=True, decoding_plugin=plugin
            )
        else:  # not by pydicom, which drops bits that padding may use
            array = np.frombuffer(data[n * expected : (n + 1) * expected], kind)
        return array.reshape(rows, columns).astype(kind)


def _read(path: Path) -> Dataset:
    return dcmread(path, specific_tags=[*LAYOUT, "PixelData"], force=True)


def _has_decoder(syntax: uid.UID, plugin: str) -> bool:
    if syntax.name == syntax:  # not known; it may be any text, of which pydicom would warn
        return False
    try:
        return plugin in get_decoder(syntax).available_plugins
    except NotImplementedError:  # what pydicom raises for a syntax it has no decoder class for
        return False


def _fits_rle(frame: bytes, pixels: int, planes: int) -> bool:
    """Whether each segment of an RLE frame decodes to the bytes of one plane, and at most one more (DICOM PS3.5 G)."""
    count, *offsets = struct.unpack("<16L", frame[:64])
    ends = [*offsets[1:count], len(frame)]
    return count == planes and all(
        pixels <= _rle_length(frame[start:end], pixels + 2) <= pixels + 1
        for start, end in zip(offsets[:count], ends, strict=True)
    )


def _rle_length(segment: bytes, most: int) -> int:
    """The bytes that a segment decodes to; counting ends at `most`."""
    at = length = 0
    while at < len(segment) and length < most:
        run = segment[at]
        if run > 128:  # one byte, repeated
            length, at = length + 257 - run, at + 2
        elif run < 128:  # as many as they are
            length, at = length + run + 1, at + run + 2
        else:
            at += 1
    return length


def _coded_size(frame: bytes) -> tuple[int, int] | None:
    """Rows and columns in a JPEG, JPEG-LS or JPEG 2000 code stream of one component, before it is decoded."""
    if frame[:4] == b"\xff\x4f\xff\x51":  # JPEG 2000: SOC, SIZ (ISO/IEC 15444-1 A.5.1)
        right, below, left, top, wide, high = struct.unpack(">6I", frame[8:32])
        few = ceil(right / wide) * ceil(below / high) <= MAX_TILES
        return (below - top, right - left) if few and frame[40:42] == b"\0\1" else None
    at = 2
    while frame[at] == 0xFF:  # JPEG and JPEG-LS: segments up to the frame header, SOF
        if frame[at + 1] in _SOF:
            height, width, components = struct.unpack(">HHB", frame[at + 5 : at + 10])
            return (height, width) if components == 1 else None
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None
