"""The bytes of a PNG, JPEG or TIFF file <-> an array of pixels: all that formats and modes need."""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import png
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile, PngInfo
from PIL.TiffImagePlugin import TiffImageFile

from ctmr.errors import DataError
from ctmr.system.privacy import quiet, without_stderr
from ctmr.types import Depth, FloatArray

if TYPE_CHECKING:
    import tifffile


def is_image_name(path: Path) -> bool:
    """Whether the suffix is one of an image."""
    return path.suffix.lower() in FORMATS


MAX_PIXELS = 64_000_000
MIN_SIDE = 16
COMMENT = "synthetic image made by ctmr - research use only, not for diagnosis"
Stored = NDArray[np.uint8] | NDArray[np.uint16]
Read = Stored | NDArray[np.int16]
Format = Literal["PNG", "JPEG", "TIFF"]
FORMATS: dict[str, Format] = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}

# First bytes of a file -> its reader. Pillow's own Image.open would try 40 formats more.
_READERS: dict[bytes, type[ImageFile]] = {
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,
    b"II*\x00": TiffImageFile,
    b"MM\x00*": TiffImageFile,
}
# Of what else is found under the name of an image; never its own bytes, which may name a patient.
_OTHERS = {
    **{b"GIF8": "a GIF", b"BM": "a BMP", b"RIFF": "a WebP", b"\0\0\0\x0cjP": "a JPEG 2000"},
    **{b"<": "a page or SVG", b"%PDF": "a PDF", b"PK": "a ZIP", b"\x1f\x8b": "a gzip file"},
    **{b"version https://git-lfs": "a Git LFS pointer", b"II+": "a BigTIFF", b"MM\0+": "a BigTIFF"},
}
_CORRUPT = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    struct.error,
    zlib.error,
    png.Error,
)
_MODES_16 = ("I;16", "I;16L", "I;16B", "I;16N")
_ORIENTATION_TAG = 0x0112


class Pixels(NamedTuple):
    """The pixels of an image file as stored, upright, without alpha."""

    array: FloatArray
    """(H, W) or (H, W, 3)."""
    depth: Depth
    transparent: bool
    """Whether transparent pixels were put on black."""
    signed: bool = False
    """Whether the file holds signed values, as TIFF can."""


def decode(content: bytes, path: Path) -> Pixels:
    """The pixels of an image file; palettes and CMYK become RGB.

    Args:
        content: The bytes of the file.
        path: Its name, for messages.

    Raises:
        DataError: If it is no such image, or is corrupt, too large, too small or has many frames.
    """
    try:
        with quiet():
            image = _open(content, path)
        _check_header(image, path)
        if isinstance(image, TiffImageFile):  # reads tags, and warns of them, up to the last moment
            with quiet(), without_stderr():
                stored = _stored(image, content)
        else:
            stored = _stored(image, content)
        with quiet():
            orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except _CORRUPT as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"cannot decode the image ({reason})", file=path, fix="restore or remove the file"
        ) from error
    if stored is None:
        raise DataError(
            "expected 8 or 16 bits a channel, grey or RGB, and signed only as grey with 16 bits: found"
            f" {'signed values, ' if _is_signed(image) else ''}Pillow mode {image.mode}",
            file=path,
            fix="save it as PNG with 8 or 16 bits",
        )
    array, transparent = _on_black(stored)
    depth: Depth = 8 if stored.dtype == np.uint8 else 16
    return Pixels(_upright(array, orientation), depth, transparent, stored.dtype == np.int16)


def encode(pixels: Stored, form: Format) -> bytes:
    """(H, W) or (H, W, 3) pixels of 8 or 16 bits -> the bytes of a file that says it is synthetic.

    Raises:
        ValueError: If the format is JPEG and the pixels have 16 bits.
    """
    stream = io.BytesIO()
    sixteen = pixels.dtype.itemsize == 2
    if form == "JPEG":
        if sixteen:
            raise ValueError("JPEG holds 8 bits: got 16")
        Pillow.fromarray(pixels).save(stream, "JPEG", quality=95, subsampling=0, comment=COMMENT)
    elif form == "TIFF":
        import tifffile  # 0.03 s: only for what is written as TIFF, or Pillow cannot read

        photometric = "rgb" if pixels.ndim == 3 else "minisblack"
        tifffile.imwrite(
            stream,
            pixels,
            photometric=photometric,
            description=COMMENT,
            software="ctmr",
            metadata=None,
        )
    elif sixteen and pixels.ndim == 3:
        return _encode_rgb16(pixels)
    else:
        note = PngInfo()
        note.add_text("Comment", COMMENT)
        Pillow.fromarray(pixels).save(stream, "PNG", pnginfo=note)
    return stream.getvalue()


def _encode_rgb16(pixels: Stored) -> bytes:
    """PNG of 16-bit RGB, which Pillow cannot write."""
    height, width = pixels.shape[:2]
    stream = io.BytesIO()
    writer = png.Writer(width, height, greyscale=False, bitdepth=16)
    writer.write(stream, pixels.reshape(height, -1))
    stream.seek(0)
    header, *rest = png.Reader(file=stream).chunks()
    out = io.BytesIO()
    png.write_chunks(out, [header, (b"tEXt", b"Comment\0" + COMMENT.encode("ascii")), *rest])
    return out.getvalue()


def _open(content: bytes, path: Path) -> ImageFile:
    """The image with its header read."""
    for magic, reader in _READERS.items():
        if content.startswith(magic):
            return reader(io.BytesIO(content))
    known = (name for magic, name in _OTHERS.items() if content.startswith(magic))
    raise DataError(
        "expected a PNG, JPEG or TIFF image: found "
        + (next(known, "another file") if content else "an empty file"),
        file=path,
        fix="restore or remove the file",
    )


def _check_header(image: ImageFile, path: Path) -> None:
    """Refuse by the header alone, before any pixel is decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(
            f"expected at most {MAX_PIXELS} pixels: found {height} x {width}",
            file=path,
            fix="shrink the image",
        )
    if min(width, height) < MIN_SIDE:
        raise DataError(
            f"expected at least {MIN_SIDE} pixels a side: found {height} x {width}",
            file=path,
            fix="remove the image",
        )
    if getattr(image, "is_animated", False):  # not n_frames, which follows a TIFF's chain of pages
        raise DataError(
            "expected one image: found several frames", file=path, fix="save each frame by itself"
        )


def _stored(image: ImageFile, content: bytes) -> Read | None:
    """(H, W), or (H, W, n) with n = 2 grey + alpha, 3 RGB, 4 RGBA; None if the depth is not 8 or 16."""
    if isinstance(image, PngImageFile) and content[24] == 16:  # IHDR: bit depth, colour type
        return _png16(image, content)
    bits = image.tag_v2.get(258, (1,)) if isinstance(image, TiffImageFile) else (1,)
    if len(bits) > 1 and max(bits) == 16:
        return _tiff16(content)
    image.load()  # only then a TIFF has its true size and orientation
    if _is_signed(image):
        return _signed(image, content) if tuple(bits) == (16,) else None
    if image.mode in _MODES_16:
        grey: NDArray[np.uint16] = np.asarray(image).astype(np.uint16)
        if isinstance(image, TiffImageFile) and image.tag_v2.get(262) == 0:  # white is zero
            grey = np.asarray(2 ** bits[0] - 1 - grey.astype(np.int64), np.uint16)
        return grey
    target = {"1": "L", "CMYK": "RGB", "YCbCr": "RGB", "RGBX": "RGB", "P": "RGB", "RGBa": "RGBA"}
    mode = target.get(image.mode, image.mode)
    if image.has_transparency_data:
        mode = "LA" if mode in ("L", "LA") else "RGBA"
    if mode not in ("L", "LA", "RGB", "RGBA"):
        return None
    converted = image if image.mode == mode else image.convert(mode)
    pixels: NDArray[np.uint8] = np.asarray(converted)
    return pixels


def _is_signed(image: ImageFile) -> bool:
    """Whether it is a TIFF of two's complement: SampleFormat (339) is 2."""
    return isinstance(image, TiffImageFile) and 2 in image.tag_v2.get(339, (1,))


def _signed(image: ImageFile, content: bytes) -> NDArray[np.int16]:
    """Pixels of a TIFF with one channel of 16 bits; Pillow exchanges the bytes of compressed big-endian ones."""
    if content[:2] == b"II":
        return np.asarray(image).astype(np.int16)
    with _tiff(content) as tiff:
        pixels: NDArray[np.int16] = tiff.pages.first.asarray().astype(np.int16)
    if pixels.shape != (image.height, image.width):
        raise ValueError("it has another size than its header says")
    return pixels


@contextmanager
def _tiff(content: bytes) -> "Iterator[tifffile.TiffFile]":
    """A TIFF as tifffile reads it."""
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(content)) as tiff:
            yield tiff
    except tifffile.TiffFileError as error:
        raise ValueError(str(error)) from error


def _png16(image: PngImageFile, content: bytes) -> Stored:
    """Pixels of a 16-bit PNG; those in colour or with alpha Pillow cuts to 8 bits."""
    colour = content[25]
    if colour == 0:
        pixels: NDArray[np.uint16] = np.asarray(image).astype(np.uint16)
        clear: Any = image.info.get("transparency")
    else:
        width, height = image.size
        _check_inflated(content, 8 * (height + 8) + height * width * 8)
        reader = png.Reader(bytes=content)
        rows = reader.read()[2]
        pixels = np.vstack([np.asarray(row, np.uint16) for row in rows])
        pixels = pixels.reshape(height, width, -1)
        clear = reader.transparent
    if clear is None:
        return pixels
    seen = pixels if pixels.ndim == 3 else pixels[..., None]
    alpha = np.where((seen == np.asarray(clear)).all(axis=-1), 0, 65535).astype(np.uint16)
    return np.dstack([seen, alpha])


def _check_inflated(content: bytes, limit: int) -> None:
    """Refuse a PNG whose data inflates to more than its header says: pypng would inflate it all."""
    inflater, total = zlib.decompressobj(), 0
    for kind, data in png.Reader(bytes=content).chunks():
        if kind == b"IDAT":
            total += len(inflater.decompress(data, limit + 1 - total))
            if total > limit:
                raise ValueError(f"its data inflates to more than {limit} bytes")


def _tiff16(content: bytes) -> Stored | None:
    """Pixels of a TIFF with several channels of 16 bits, which Pillow cuts to 8."""
    with _tiff(content) as tiff:
        page = tiff.pages.first
        if page.photometric not in (1, 2):
            return None  # not MinIsBlack, not RGB
        pixels: NDArray[np.uint16] = page.asarray()
        planes_first = page.planarconfig == 2
    if planes_first:
        pixels = np.moveaxis(pixels, 0, -1)
    return pixels if pixels.dtype == np.uint16 and pixels.shape[-1] in (2, 3, 4) else None


def _on_black(stored: Read) -> tuple[FloatArray, bool]:
    """The pixels without their alpha channel, and whether it hid anything."""
    if stored.ndim == 2 or stored.shape[2] == 3:
        return stored.astype(np.float32), False
    colour, alpha = stored[..., :-1].astype(np.float32), stored[..., -1:].astype(np.float32)
    opaque = np.float32(np.iinfo(stored.dtype).max)
    transparent = bool(alpha.min() < opaque)
    if transparent:
        colour = colour * (alpha / opaque)
    return colour[..., 0] if colour.shape[2] == 1 else colour, transparent


def _upright(array: FloatArray, orientation: int) -> FloatArray:
    """The array as a viewer shows it: EXIF orientation 1..8 (CIPA DC-008, tag 0x0112)."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)
