"""The picture that lies beside a translation: source and result in the same planes."""

import numpy as np

from ctmr.imaging.image import Scan
from ctmr.imaging.intensity import ct_window
from ctmr.imaging.resampling import resize
from ctmr.imaging.volume import Volume, canonical
from ctmr.reporting.preview import side_by_side
from ctmr.types import Encoding, FloatArray

SIDE = 320  # pixels of the longest side of a plane
SAMPLES = 64  # along each axis, at least, by which these percentiles are found
PERCENTILES = (0.5, 99.8)  # of a scan without HU: black and white


class Glance:
    """What a preview shows of a volume, kept of its axial slices: three planes that meet in a voxel, and some values.

    Args:
        volume: Its grid and encoding; its values are not looked at.
        centre: The voxel (I, J, K), of the canonical volume.
    """

    def __init__(self, volume: Volume, centre: tuple[int, int, int]) -> None:
        self._volume, self._seen = volume, 0
        upright = canonical(volume)
        (columns, rows, _), (i, j, self._k) = upright.array.shape, centre
        self._row, self._column = (
            rows - 1 - j,
            columns - 1 - i,
        )  # front at the top, right at the left
        self._extents = [
            n * mm for n, mm in zip(upright.array.shape, upright.spacing_mm, strict=True)
        ]
        self._axial = list[FloatArray]()
        self._coronal, self._sagittal = list[FloatArray](), list[FloatArray]()
        self._samples = list[FloatArray]()

    def add(self, slices: FloatArray) -> None:
        """Keep what is shown of the next slices (n, rows, columns): all at once, unless K is up in the volume itself."""
        first, own = self._seen, self._volume.from_axial(slices)
        i, j, k = (max(1, n // SAMPLES) for n in self._volume.array.shape)
        self._seen += len(slices)
        if first <= self._k < self._seen:
            self._axial.append(slices[self._k - first].astype(np.float32))
        self._coronal.append(slices[:, self._row].astype(np.float32))
        self._sagittal.append(slices[:, :, self._column].astype(np.float32))
        self._samples.append(own[::i, ::j, -first % k :: k].astype(np.float32).ravel())

    def planes(self) -> list[FloatArray]:
        """The planes (h, w) in [0, 1], axial, coronal and sagittal, at one scale in mm.

        The top of the head is at that of the last two, and the patient's front at the left of the sagittal one.
        """
        right, front, up = self._extents
        zoom = SIDE / max(self._extents)
        window = _window(self._volume.encoding, np.concatenate(self._samples))
        return [
            _shown(self._axial[0], front * zoom, right * zoom, window),
            _shown(np.concatenate(self._coronal)[::-1], up * zoom, right * zoom, window),
            _shown(np.concatenate(self._sagittal)[::-1], up * zoom, front * zoom, window),
        ]


def preview(
    source: Scan, result: Scan | Glance, centre: tuple[int, int, int] | None = None
) -> bytes:
    """A PNG of source and result, marked as synthetic: an image, or three planes of a volume.

    Args:
        source: What was translated.
        result: The translation, on the same grid.
        centre: The voxel (I, J, K) of the canonical volume that the planes meet in; None for an image.
    """
    return side_by_side(_planes(source, centre), _planes(result, centre))


def _planes(scan: Scan | Glance, centre: tuple[int, int, int] | None) -> list[FloatArray]:
    """The planes (h, w) in [0, 1] of an image, or of a volume."""
    if isinstance(scan, Volume) and centre is not None:
        volume, scan = scan, Glance(scan, centre)
        scan.add(volume.axial(volume.array))
    if isinstance(scan, Glance):
        return scan.planes()
    height, width = scan.grey.shape[:2]
    zoom = SIDE / max(height, width)
    step = tuple(slice(None, None, max(1, n // SAMPLES)) for n in scan.grey.shape)
    window = _window(scan.encoding, scan.grey[step])
    return [_shown(scan.grey, height * zoom, width * zoom, window)]


def _window(encoding: Encoding, some: FloatArray) -> tuple[float, float] | None:
    """Values that are shown as black and white, by percentiles of some; None for HU, which have their own window."""
    if encoding == "HU":
        return None
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
