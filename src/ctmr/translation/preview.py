"""The picture that lies beside a translation: source and result in the same planes."""

import numpy as np

from ctmr.imaging.image import Scan
from ctmr.imaging.intensity import ct_window
from ctmr.imaging.resampling import resize
from ctmr.imaging.volume import Volume, canonical
from ctmr.reporting.preview import side_by_side
from ctmr.types import FloatArray

SIDE = 320  # pixels of the longest side of a plane
PERCENTILES = (0.5, 99.8)  # of a scan without HU: black and white


def preview(source: Scan, result: Scan, centre: tuple[int, int, int] | None) -> bytes:
    """A PNG of source and result, marked as synthetic: an image, or three planes of a volume.

    Args:
        source: What was translated.
        result: The translation, on the same grid.
        centre: The voxel (I, J, K) of the canonical volume that the planes meet in; None for an image.
    """
    return side_by_side(_planes(source, centre), _planes(result, centre))


def _planes(scan: Scan, centre: tuple[int, int, int] | None) -> list[FloatArray]:
    """The planes (h, w) in [0, 1] of an image, or of a volume axial, coronal and sagittal, at one scale in mm."""
    shown = _brightness(scan)
    if not isinstance(scan, Volume) or centre is None:
        height, width = scan.grey.shape[:2]
        zoom = SIDE / max(height, width)
        return [_sized(shown, height * zoom, width * zoom)]
    upright = canonical(Volume(shown, scan.affine))
    i, j, k = centre
    # Rows run down the picture: front at the top of the axial plane, the top of the head at that of the others; the patient's
    # right is at the left, and his front at the left of the sagittal plane.
    planes = (
        (upright.array[::-1, ::-1, k].T, 1, 0),
        (upright.array[::-1, j, ::-1].T, 2, 0),
        (upright.array[i, ::-1, ::-1].T, 2, 1),
    )
    extents = [n * mm for n, mm in zip(upright.array.shape, upright.spacing_mm, strict=True)]
    zoom = SIDE / max(extents)
    return [
        _sized(plane, extents[down] * zoom, extents[right] * zoom) for plane, down, right in planes
    ]


def _brightness(scan: Scan) -> FloatArray:
    """The values of a scan as they are shown, in [0, 1]: HU by the piecewise window, others by their percentiles."""
    if scan.encoding == "HU":
        return (ct_window("piecewise").to_unit(scan.grey) + 1) / 2
    low, high = (float(value) for value in np.percentile(scan.grey, PERCENTILES))
    shown: FloatArray = ((scan.grey - low) / max(high - low, 1e-6)).clip(0, 1).astype(np.float32)
    return shown


def _sized(plane: FloatArray, height: float, width: float) -> FloatArray:
    return resize(plane, max(1, round(height)), max(1, round(width))).clip(0, 1)
