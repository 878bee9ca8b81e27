"""One scan of a data folder as an audit sees it: what is measured of it, and a small picture to show."""

import hashlib
import io
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image as Pillow

from ctmr.audit.burned_in import has_colour, has_letters
from ctmr.audit.near_duplicates import Fingerprint, fingerprint
from ctmr.data.sources import Source
from ctmr.data.survey import image_of_source
from ctmr.errors import CtmrError, SafetyError
from ctmr.imaging.descriptors import (
    Descriptors,
    Outlined,
    background_of,
    describe,
    inside_frame,
    shrunk,
    small_picture,
    square_slice,
    windowed,
)
from ctmr.imaging.head import HeadRegion, find_head
from ctmr.imaging.image import luma
from ctmr.imaging.label_maps import NotAScan, require_scan
from ctmr.imaging.modality import as_modality
from ctmr.imaging.order import ordered, percentile
from ctmr.imaging.volume import Volume, canonical
from ctmr.io.dicom.header import text_of
from ctmr.io.image_info import read_bytes
from ctmr.io.scan import read_with_series
from ctmr.types import BoolArray, FloatArray

Fault = Literal["unreadable", "wrong_modality", "not_hu", "no_scan"]
Mark = Literal["frame", "letters", "colour"]
Plane = Literal["axial", "coronal", "sagittal"]
NEAR_HEAD_PIXELS = 4  # pixels of the small picture round the head: ears and tubes are no letters
SHOWN_BELOW_TOP_MM = (
    60.0  # below the top of the head, about the ventricles: the slice of a volume that is shown
)
MIN_THICKNESS_RATIO = (
    1.3  # slices that are so much thicker than their pixels tell the plane a volume was taken in
)
MIN_CUT_MM2 = 2000.0  # of head in a slice: where the last slice has so much, the top is cut off
MIN_WHOLE_MM = 100.0  # from top to bottom, at least, of a volume that shows the whole brain
THUMBNAIL = 96  # pixels
PLANES: dict[str, Plane] = {"S": "axial", "I": "axial", "A": "coronal", "P": "coronal"}


@dataclass(frozen=True, eq=False)
class Picture:
    """What is known of one readable scan.

    Attributes:
        digest: Of its values and their shape, whatever the format of the file.
        shape: (H, W) of an image, (I, J, K) of a volume.
        stored: How its values are stored, as `8-bit RGB`.
        patient: What the pattern found in its name, else a hash of the patient's identity in the header.
        descriptors: None if nothing like a head is in it.
        print: To find copies; None likewise.
        ends: Shares of the head at the lowest and at the highest value of the picture.
        marks: What is drawn on it.
        plane: In which a volume with thick slices was taken.
        part: What a volume shows of the head, if it is not all of it.
        thumbnail: JPEG.
    """

    source: Source
    digest: str
    shape: tuple[int, ...]
    stored: str
    patient: str | None
    descriptors: Descriptors | None
    print: Fingerprint | None
    ends: tuple[float, float]
    marks: tuple[Mark, ...]
    plane: Plane | None
    part: str | None
    thumbnail: bytes

    @property
    def label(self) -> str:
        """The path below the data folder."""
        return self.source.label

    @property
    def folder(self) -> str:
        """The folder of its split and modality, as `trainA`."""
        return self.source.folder


@dataclass(frozen=True)
class Unusable:
    """A scan that cannot be used, and why."""

    source: Source
    fault: Fault
    why: str


def take_picture(source: Source) -> Picture | Unusable:
    """Read a scan and measure it; of a header nothing is kept but a hash of the patient's identity."""
    try:
        return _of_image(source) if source.kind == "image" else _of_volume(source)
    except NotAScan as error:
        return Unusable(source, "no_scan", error.what)
    except CtmrError as error:
        return Unusable(source, "unreadable", error.what)


def _of_image(source: Source) -> Picture | Unusable:
    image = image_of_source(source, read_bytes(source.path))
    if image.unit == "HU" and source.modality == "mr":
        return Unusable(source, "wrong_modality", "signed values that look like HU in an MR folder")
    colour = image.array.ndim == 3
    white = 255.0 if image.depth == 8 else 65535.0
    drawn: list[Mark] = ["colour"] if colour and has_colour(image.array, white) else []
    grey = luma(image.array) if colour else image.array
    shown, background = windowed(grey, image.encoding), background_of(grey)
    inside = np.ascontiguousarray(grey[inside_frame(grey, background)])
    if inside.shape != grey.shape:
        drawn.append("frame")
    small = small_picture(inside, image.encoding)
    if small.head.any():
        near, bright = _enlarged(small.head, inside.shape, NEAR_HEAD_PIXELS), inside
        if inside.shape != grey.shape or shown is not grey:
            bright = windowed(inside, image.encoding)
            background = background_of(bright)
        if has_letters(bright, near, background):
            drawn.append("letters")
    kind = "HU" if image.unit == "HU" else "RGB" if colour else "grey"
    stored = f"{image.depth}-bit {kind}{' with transparency' if image.transparent else ''}"
    return Picture(
        source,
        _digest(grey),
        grey.shape,
        stored,
        source.patient,
        *_looks(small),
        _ends(inside, small.head),
        tuple(drawn),
        None,
        None,
        _thumbnail(shown),
    )


def _of_volume(source: Source) -> Picture | Unusable:
    patient, drawn = source.patient, tuple[Mark, ...]()
    volume, series = read_with_series(
        source.path,
        modality=source.modality,
        reading=replace(source.reading, irregular=True),
        files=source.files,
    )
    if not isinstance(volume, Volume):
        raise TypeError(f"source must be a volume: got {source!r}")
    if series is not None:
        patient = source.patient or series.patient
        if text_of(series.headers[0], "BurnedInAnnotation") == "YES":
            drawn = ("letters",)
    if not source.reading.anyway:
        require_scan(volume)
    try:
        volume = as_modality(volume, source.modality, anyway=source.reading.anyway)
    except SafetyError as error:
        is_mr = source.modality == "mr" or volume.modality == "mr"
        return Unusable(source, "wrong_modality" if is_mr else "not_hu", error.what)
    upright = canonical(volume)
    found = find_head(upright, source.modality)
    pixels = _slice(upright if found is None else found.on_air(upright), found)
    small = small_picture(pixels, volume.encoding)
    if found is None:
        small = small._replace(head=np.zeros_like(small.head))
    return Picture(
        source,
        _digest(volume.array),
        volume.array.shape,
        "volume",
        patient,
        *_looks(small),
        _ends(pixels, small.head),
        drawn,
        _plane(volume),
        _part(upright, found),
        _thumbnail(windowed(pixels, volume.encoding)),
    )


def _slice(upright: Volume, head: HeadRegion | None) -> FloatArray:
    """An axial slice (rows, columns) at the level of the ventricles, with square pixels."""
    top = upright.array.shape[2] - 1 if head is None else head.top
    k = max(top - round(SHOWN_BELOW_TOP_MM / upright.spacing_mm[2]), top // 2)
    return square_slice(upright, k)


def _part(upright: Volume, head: HeadRegion | None) -> str | None:
    """What of a head a volume lacks."""
    if head is None:
        return None
    with_head = np.flatnonzero(head.areas_mm2 >= MIN_CUT_MM2)
    if with_head.size == 0:
        return None
    reach = float((with_head[-1] - with_head[0] + 1) * upright.spacing_mm[2])
    if with_head[-1] == len(head.areas_mm2) - 1:
        return "the top is cut off"
    return f"{reach:.0f} mm from top to bottom" if reach < MIN_WHOLE_MM else None


def _plane(volume: Volume) -> Plane | None:
    """The plane of the slices if they are clearly thicker than their pixels are wide."""
    sides = volume.spacing_mm
    thick = int(np.argmax(sides))
    if sides[thick] < MIN_THICKNESS_RATIO * sorted(sides)[1]:
        return None
    return PLANES.get(volume.axes[thick], "sagittal")


def _looks(small: Outlined) -> tuple[Descriptors | None, Fingerprint | None]:
    if not small.head.any():
        return None, None
    return describe(small), fingerprint(small.grey, small.head)


def _ends(grey: FloatArray, head: BoolArray) -> tuple[float, float]:
    if not head.any():
        return 0.0, 0.0
    wide = _enlarged(head, grey.shape, 0)
    lowest, highest, count = (
        np.count_nonzero(each)
        for each in ((grey <= grey.min()) & wide, (grey >= grey.max()) & wide, wide)
    )
    return lowest / count, highest / count


def _enlarged(head: BoolArray, shape: tuple[int, ...], more: int) -> BoolArray:
    """The mask, grown by some of its pixels, on a finer grid."""
    for _ in range(more):
        wider = head.copy()
        wider[1:] |= head[:-1]
        wider[:-1] |= head[1:]
        wider[:, 1:] |= head[:, :-1]
        wider[:, :-1] |= head[:, 1:]
        head = wider
    rows, columns = (
        np.arange(pixels) * few // pixels for pixels, few in zip(shape, head.shape, strict=True)
    )
    return np.asarray(head.take(rows, axis=0).take(columns, axis=1))


def _digest(values: FloatArray) -> str:
    # Where processors have instructions for it, as most have, SHA-256 takes a third of the time of BLAKE2.
    content = hashlib.sha256(repr(values.shape).encode())
    content.update(np.ascontiguousarray(values).data)
    return content.hexdigest()


def _thumbnail(shown: FloatArray) -> bytes:
    small = shrunk(shown, THUMBNAIL)
    low, high = float(small.min()), percentile(ordered(small), 99.9)
    grey = (small - low) * (255 / max(high - low, 1e-6))
    stream = io.BytesIO()
    Pillow.fromarray(grey.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=80)
    return stream.getvalue()
