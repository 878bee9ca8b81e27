"""Headers that say what their own pictures deny: what is only said, and what is refused."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ctmr.errors import SafetyError
from ctmr.imaging.ct_values import looks_like_offset_hu
from ctmr.io.dicom.header import SliceFile, require, tagged
from ctmr.io.dicom.kinds import CLASSES, ENHANCED
from ctmr.types import FloatArray, Matrix

_JUMP = 500.0  # HU between the dark parts of one slice and of the others
_RATIO = 100.0  # between the slopes of an MR
_TOP = 30_000.0  # HU; no metal is above, but negative values are that were read without their sign


def require_hu(slices: Sequence[SliceFile], array: FloatArray, folder: Path) -> None:
    """Refuse a CT whose values are HU + 1024 though its header says HU.

    Args:
        slices: Of a CT.
        array: (K, rows, columns) as its header says.
        folder: Where they lie.

    Raises:
        SafetyError: If air lies at 0 and tissue about 1024.
    """
    what = (
        f"expected HU by RescaleIntercept (0028,1052) {slices[0].rescale[1]:g}: found air near 0 and tissue"
        " near 1024; this looks like HU + 1024"
    )
    shifted = looks_like_offset_hu(array)
    require(not shifted, what, folder, "give --ct-values hu+1024", SafetyError)


def contradictions(
    slices: Sequence[SliceFile], array: FloatArray, affine: Matrix, even: bool
) -> Iterator[str]:
    """A line for each thing that the headers of sorted slices say and their places or pixels (K, rows, columns) deny."""
    name = slices[0].values["Modality"]
    wrong = [image for image in slices if _other_class(image)]
    if wrong:
        yield (
            f"{tagged('SOPClassUID')} of {len(wrong)} of {len(slices)} files is not that of {name}:"
            " Modality (0008,0060) is believed"
        )
    yield from _spacing(slices, affine, even)
    yield from _rescale(slices, array, name)
    high = float((array[:: max(1, len(array) // 32)] > _TOP).mean())
    if name == "CT" and high > 0.05:
        yield (
            f"{high:.0%} of the pixels of a CT are above {_TOP:g} HU: PixelRepresentation (0028,0103)"
            " or the bits stored seem to be wrong"
        )


def _other_class(image: SliceFile) -> bool:
    """Whether the class is none of its modality."""
    kind = str(image.values.get("SOPClassUID", ""))
    said = {**CLASSES, **ENHANCED}.get(kind)
    return bool(kind) and said != image.values["Modality"].lower()


def _spacing(slices: Sequence[SliceFile], affine: Matrix, even: bool) -> Iterator[str]:
    try:
        said = abs(float(slices[0].values["SpacingBetweenSlices"]))
    except (KeyError, TypeError, ValueError):
        return
    lps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, 2]
    step = abs(float(slices[0].normal @ lps))
    way = float(np.linalg.norm(lps))  # along a tilted gantry
    if even and len(slices) > 1 and min(abs(said - step), abs(said - way)) > max(0.1, 0.05 * step):
        yield (
            f"{tagged('SpacingBetweenSlices')} says {said:.4g} mm, but the slices lie {step:.4g} mm"
            " apart: their positions are believed"
        )


def _rescale(slices: Sequence[SliceFile], array: FloatArray, name: str) -> Iterator[str]:
    """Slopes and intercepts that differ between slices more than their pictures can."""
    rescales = np.array([image.rescale for image in slices])
    if name == "MR":
        slopes = np.abs(rescales[:, 0])
        if slopes.max() > _RATIO * slopes.min():
            yield (
                f"RescaleSlope (0028,1053) differs between slices, from {slopes.min():.3g} to"
                f" {slopes.max():.3g}: their grey values may not fit together"
            )
        return
    if (rescales == rescales[0]).all():
        return
    dark = np.array([float(np.percentile(plane, 5)) for plane in array])
    off = np.abs(dark - np.median(dark))
    worst = int(off.argmax())
    if off[worst] > _JUMP:
        yield (
            f"RescaleSlope (0028,1053) and RescaleIntercept (0028,1052) of {slices[worst].path.name!r}"
            f" set it {off[worst]:.0f} HU apart from the other slices ({int((off > _JUMP).sum())} such)"
        )
