"""The picture that lies beside a translation: source and result in the same planes."""

import numpy as np

from ctmr.imaging.image import Scan
from ctmr.imaging.intensity import ct_window
from ctmr.imaging.resampling import resize
from ctmr.imaging.volume import Volume, canonical
from ctmr.reporting.preview import side_by_side
from ctmr.types import FloatArray

SIDE = 320  # pixels of the longest side of a plane
SAMPLES = 64  # along each axis, at least, by which these percentiles are found
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
    window = _window(scan)
    if not isinstance(scan, Volume) or centre is None:
        height, width = scan.grey.shape[:2]
        zoom = SIDE / max(height, width)
        return [_shown(scan.grey, height * zoom, width * zoom, window)]
    upright = canonical(scan)
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
        _shown(plane, extents[down] * zoom, extents[right] * zoom, window)
        for plane, down, right in planes
    ]


def _window(scan: Scan) -> tuple[float, float] | None:
    """Values that are shown as black and white, by percentiles of the scan; None for HU, which have their own window."""
    if scan.encoding == "HU":
        return None
    some = scan.grey[tuple(slice(None, None, max(1, n // SAMPLES)) for n in scan.grey.shape)]
    low, high = (float(value) for value in np.percentile(some, PERCENTILES))
    return low, high


def _shown(
    plane: FloatArray, height: float, width: float, window: tuple[float, float] | None
) -> FloatArray:
    """A plane of a scan (h, w) in [0, 1]: by a window, or HU by the piecewise one."""
    sized = resize(plane, max(1, round(height)), max(1, round(width)))
    if window is None:
        return ct_window("piecewise").to_unit(sized) / np.float32(2) + np.float32(0.5)
    low, high = window
    shown: FloatArray = ((sized - low) / max(high - low, 1e-6)).clip(0, 1).astype(np.float32)
    return shown
