"""Image files <-> arrays with a unit and a spacing."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from ctmr.errors import DataError, OutputError, printable
from ctmr.imaging.ct_values import AIR_BELOW_HU
from ctmr.imaging.image import Image, luma
from ctmr.io.codecs import FORMATS, decode, encode
from ctmr.io.image_info import (
    HU_INTERCEPT,
    HU_SLOPE,
    ImageInfo,
    add_image_info,
    read_bytes,
    read_image_info,
)
from ctmr.system.files import write_bytes
from ctmr.system.ownership import require_own, write_own
from ctmr.types import FloatArray

LOWEST_HU = -4096.0  # of scanners, with what they put outside the field of view

logger = logging.getLogger(__name__)


def read_image(
    path: Path, channels: Literal[1, 3] | None = None, info: ImageInfo | None = None
) -> Image:
    """One image file.

    Args:
        path: A PNG, JPEG or TIFF file of 8 or 16 bits.
        channels: 1 makes it grey (ITU-R BT.601 luma), 3 repeats grey; None keeps what the file has.
        info: Its folder's `ctmr.json`, if the caller has read it.

    Raises:
        DataError: If the file or its `ctmr.json` cannot be read.
    """
    info = read_image_info(path.parent) if info is None else info
    image = image_of(read_bytes(path), path, channels, info)
    if image.transparent:
        logger.info("%s: transparent pixels were put on black", printable(str(path)))
    return image


def save_image(path: Path, image: Image, *, overwrite: bool = False) -> None:
    """Write an image in the format of the suffix; one in HU gets a `ctmr.json` beside it that says so.

    Raises:
        OutputError: If the format cannot hold the image, images of another unit are there, a file that ctmr did not write
            is there (without `overwrite`), or the file cannot be written.
    """
    content = image_bytes(path, image)
    require_own([path], overwrite=overwrite)
    add_image_info(path.parent, image.unit, {path.name: image.spacing_mm})
    write_own(path, content, overwrite=overwrite, kind="scans")


def image_of(content: bytes, path: Path, channels: Literal[1, 3] | None, info: ImageInfo) -> Image:
    """The image in the bytes of a file; see `read_image`.

    Signed values below 0 are HU: by the `ctmr.json`, or by their looks.
    """
    array, depth, transparent, signed = decode(content, path)
    if signed and info.unit == "grey" and array.min() < 0:
        _require_hu(array, path)
        info = replace(info, unit="HU")
    if array.ndim == 3 and (channels == 1 or info.unit == "HU"):
        array = luma(array)  # (H, W)
    if info.unit == "HU":
        array = array * np.float32(info.slope) + np.float32(info.intercept)
    if array.ndim == 2 and channels == 3:
        array = np.repeat(array[..., None], 3, axis=-1)  # (H, W, 3)
    return Image(array, info.unit, depth, info.spacing_of(path.name), transparent)


def _require_hu(array: FloatArray, path: Path) -> None:
    """Refuse negative values that no `ctmr.json` explains unless they look like HU, with air among them."""
    low, high = float(array.min()), float(array.max())
    if not LOWEST_HU <= low <= AIR_BELOW_HU:
        raise DataError(
            f"expected grey values from 0, or HU with air below {AIR_BELOW_HU:g}: found signed values"
            f" from {low:g} to {high:g}",
            file=path,
            fix='if they are HU, write {"unit": "HU", "slope": 1, "intercept": 0} into a ctmr.json'
            " beside it; else save unsigned values",
        )
    logger.info("%s: signed values with air are taken for HU", printable(str(path)))


def write_image(path: Path, image: Image) -> None:
    """Write an image in the format of the suffix, rounded half to even and clipped to its depth.

    HU are written as 16-bit values of HU + 1024; `write_image_info` says so to a reader.

    Raises:
        OutputError: If the format cannot hold the image, or the file cannot be written.
    """
    write_bytes(path, image_bytes(path, image))


def image_bytes(path: Path, image: Image) -> bytes:
    """The bytes of an image file in the format of the suffix; see `write_image`."""
    form = FORMATS.get(path.suffix.lower())
    if form is None or (form == "JPEG" and image.depth == 16):
        raise OutputError(
            f"a {image.depth}-bit image needs a suffix of "
            + (", ".join(FORMATS) if image.depth == 8 else ".png, .tif, .tiff")
            + f": found {path.suffix!r}",
            file=path,
            fix="change the suffix",
        )
    values = image.array.astype(np.float64)
    if image.unit == "HU":
        if image.depth != 16:
            raise ValueError(f"HU need 16 bits: got {image.depth}")
        values = (values - HU_INTERCEPT) / HU_SLOPE
    if not np.isfinite(values).all():
        raise ValueError("image values must be finite")
    rounded = np.clip(np.rint(values), 0, 2**image.depth - 1)
    stored = rounded.astype(np.uint8) if image.depth == 8 else rounded.astype(np.uint16)
    return encode(stored, form)
