"""Enhanced multi-frame CT and MR: an object's functional groups -> a slice a frame, as single-frame files have them."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.multival import MultiValue

from ctmr.io.dicom.header import (
    COPY_AGAIN,
    LAYOUT,
    PLACE,
    SliceFile,
    as_bytes,
    parsing,
    require,
    tagged,
)
from ctmr.io.dicom.kinds import ENHANCED
from ctmr.system.memory import require_memory

MAX_FRAMES = 20_000
MAX_BEFORE_PIXELS = 2**26  # bytes of a header with its functional groups
MAX_GROUPS = 1000  # sequence items of a frame, and of the object beside them

# Functional group -> what is read of it (DICOM PS3.3 C.7.6.16.2).
_MACROS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
}
_SINGLE = {
    name: name for name in ("EchoTime", "RepetitionTime", "InversionTime", "ScanningSequence")
}
# The times of an MR (DICOM PS3.3 C.8.13.5), and what they are called in a single-frame object; a converted one keeps the names.
_TIMES = {
    "MRTimingAndRelatedParametersSequence": {"RepetitionTime": "RepetitionTime"},
    "MREchoSequence": {"EffectiveEchoTime": "EchoTime"},
    "MRModifierSequence": {"InversionTimes": "InversionTime"},
    "MRDiffusionSequence": {"DiffusionBValue": "DiffusionBValue"},
    "MRImageFrameTypeSequence": {"AcquisitionContrast": "AcquisitionContrast"},
    "UnassignedSharedConvertedAttributesSequence": _SINGLE,
    "UnassignedPerFrameConvertedAttributesSequence": _SINGLE,
}
# What tells the volumes of one object apart.
_VOLUMES = {
    "FrameContentSequence": ("StackID", "TemporalPositionIndex"),
    "MRDiffusionSequence": ("DiffusionBValue", "DiffusionDirectionality"),
    "MREchoSequence": ("EffectiveEchoTime",),
    "MRImageFrameTypeSequence": ("FrameType", "ComplexImageComponent"),
    "CTImageFrameTypeSequence": ("FrameType",),
}
_SHARED, _PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
_PIXELS = [*LAYOUT, "NumberOfFrames", "PixelData"]
_ITEM = b"\xfe\xff\x00\xe0"  # the tag of a sequence item, little endian
_SPLIT = (
    "export it as single-frame images, for instance with emf2sf of dcm4che, and keep the files of one"
    " volume in a folder; --series cannot choose within one file"
)


def frames_of(image: SliceFile) -> list[SliceFile]:
    """The frames of an enhanced CT or MR object as slices, in the order of the file; any other file is one slice.

    Raises:
        DataError: If its groups are damaged, too many, or those of several volumes.
        ResourceError: If they take more memory than there is.
    """
    if str(image.values.get("SOPClassUID", "")) not in ENHANCED:
        return [image]
    path = image.path
    with parsing(path):
        count = int(image.values.get("NumberOfFrames", 0))
    what = f"expected 1 to {MAX_FRAMES} frames: found {count}"
    require(0 < count <= MAX_FRAMES, what, path, COPY_AGAIN)
    _require_few_groups(path, count)
    with parsing(path):
        tags = [_SHARED, _PER_FRAME]
        found = dcmread(path, stop_before_pixels=True, specific_tags=tags, force=True)
        shared = [*found.get(_SHARED, [])][:1]
        groups = [[item, *shared] for item in found.get(_PER_FRAME, [])]
    what = f"expected {count} items of {tagged(_PER_FRAME)}: found {len(groups)}"
    require(len(groups) == count, what, path, COPY_AGAIN)
    read = functools.cache(lambda: dcmread(path, specific_tags=_PIXELS, force=True))
    with parsing(path):
        of_all = _stated(shared[0]) if shared else {}
        frames = [
            _frame(image, of_all | _stated(group[0]), _times(group), n)._replace(read=read)
            for n, group in enumerate(groups)
        ]
        differing = _differing(groups)
    places = {str(frame.values.get("ImagePositionPatient")) for frame in frames}
    what = f"expected the frames of one volume: found {count} at {len(places)} places"
    what += f", which differ in {', '.join(differing) or 'nothing that is known'}"
    stacks = any(keyword.startswith("StackID") for keyword in differing)
    require(len(places) == count and not stacks, what, path, _SPLIT)
    return frames


def _require_few_groups(path: Path, count: int) -> None:
    """Refuse a header that would take very much memory, by its bytes."""
    with parsing(path), path.open("rb") as file:
        dcmread(file, stop_before_pixels=True, specific_tags=["Rows"], force=True)
        size = file.tell()
    what = f"expected at most {MAX_BEFORE_PIXELS} bytes before the pixels: found {size}"
    require(size <= MAX_BEFORE_PIXELS, what, path, COPY_AGAIN)
    with parsing(path), path.open("rb") as file:
        items = file.read(size).count(_ITEM)
    most = MAX_GROUPS * (count + 1)
    what = f"expected at most {most} items of sequences for {count} frames: found {items}"
    require(items <= most, what, path, COPY_AGAIN)
    require_memory(items * 4096, path)


def _stated(group: Dataset) -> dict[str, tuple[DataElement | RawDataElement, Any]]:
    """Keyword -> its element as bytes and its value, of all that is read of a functional group."""
    stated = {}
    for macro, keywords in _MACROS.items():
        item = _item([group], macro)
        for keyword in keywords:
            if item is not None and keyword in item:
                raw = as_bytes(
                    item.get_item(keyword), keyword
                )  # before its value, which replaces the bytes
                stated[keyword] = raw, item[keyword].value
    return stated


def _times(group: Sequence[Dataset]) -> dict[str, Any]:
    """What tells the weighting of an MR, by the names of a single-frame object."""
    found = {}
    for macro, names in _TIMES.items():
        item = _item(group, macro)
        for keyword, name in names.items():
            value = item.get(keyword) if item is not None else None
            several = isinstance(value, MultiValue | list) and name != "ScanningSequence"
            value = (value[0] if value else None) if several else value
            if value not in (None, ""):
                found[name] = value
    return found


def _frame(
    image: SliceFile, stated: Mapping[str, Any], times: Mapping[str, Any], n: int
) -> SliceFile:
    """The n-th frame, with what its groups say in the place of what a single-frame file says."""
    header, values = Dataset(), {**image.values, **times}
    for tag, element in image.header.items():
        header[tag] = element
    header.ReferencedFrameNumber = n + 1
    for keyword in (keyword for keywords in _MACROS.values() for keyword in keywords):
        header.pop(keyword, None)
        values.pop(keyword, None)
        raw, value = stated.get(keyword, (None, None))
        if value not in (None, ""):
            values[keyword] = value
            if keyword in PLACE:
                header[keyword] = raw
    return image._replace(header=header, values=values, frame=n)


def _item(group: Sequence[Dataset], macro: str) -> Dataset | None:
    """The one item of a functional group: that of the frame, else the shared one."""
    for groups in group:
        if macro in groups and len(groups[macro].value) > 0:
            item: Dataset = groups[macro].value[0]
            return item
    return None


def _differing(groups: Sequence[Sequence[Dataset]]) -> list[str]:
    """The keywords with tags that do not say the same of all frames, with the number of values."""
    found = []
    for macro, keywords in _VOLUMES.items():
        for keyword in keywords:
            items = [_item(group, macro) for group in groups]
            values = {str(item.get(keyword, "")) for item in items if item is not None}
            if len(values) > 1:
                found.append(f"{tagged(keyword)}: {len(values)} values")
    return found
