"""Where the head is, in an image and in a volume."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from ctmr.imaging.ct_values import AIR_HU
from ctmr.imaging.image import Scan
from ctmr.imaging.order import median, ordered, percentile, percentiles
from ctmr.imaging.volume import Value, Volume, canonical, like
from ctmr.types import BoolArray, FloatArray, Matrix, Modality

# Thresholds, all of them. HU: between air and fat. Shares: of the way from the background to the brightest tissue.
TISSUE_ABOVE_HU = -300.0
TISSUE_ABOVE_SHARE = 0.12
TISSUE_ABOVE_SHARE_INSIDE = 0.03  # where tissue is darker and brighter than the background
TISSUE_ABOVE_NOISE = 5.0  # standard deviations of the background
MAX_THRESHOLD_SHARE = 0.35  # however noisy the background is
RANGE_PERCENTILES = (0.5, 99.5)  # of all values: the darkest and the brightest that count
RIM_BINS = 64  # of that range, in which the most frequent value of the rim is looked for
RIM_REACH_SHARE = 0.3  # values of the rim so near to it are background too
MIN_DARKER_SHARE = 0.01  # of all values: with as many darker ones, the most frequent value of the rim is background
MAX_SPREAD_SHARE = 0.03  # only if, within so much of the range, it fills
MIN_RIM_SHARE = 0.3  # so much of the rim
MIN_PICTURE_SHARE = 0.25  # and so much of the whole: a line drawn round a picture does not
MIN_CONSTANT_SHARE = 0.5  # of the rim, one value that is no air, round a brain cut out of a CT
MAX_AIR_SHARE = 0.02  # of such a CT
RADIUS_SHARE = 0.03  # of the short side, the disk of `head_mask`: 8 pixels of 256
NODE_MM = 2.0  # of the grid on which the head is looked for in a volume
# Gaps up to twice this are closed, and what is thinner is cut off: in MR that joins scalp and brain over the dark skull,
# in CT it must not reach from the head to the table.
RADIUS_MM: dict[Modality, float] = {"ct": 3.0, "mr": 8.0}
MAX_BALL = 41  # pixels across; a larger ball is left to a map of distances
TOP_MM2 = 500.0  # head in the slice that counts as its top


class Background(NamedTuple):
    """The background of a scan, and how far from it tissue begins, in the unit of the scan."""

    level: float
    threshold: float
    is_inside: bool
    """Whether there is tissue on either side of it, as in an MR with mean 0."""
    low: float
    """The darkest value of the scan that counts, see `RANGE_PERCENTILES`."""
    high: float
    """The brightest."""

    def brighter_by(self, share: float) -> float:
        """The value so much of the way from the background to the brightest value."""
        return self.level + share * (self.high - self.level)

    def tissue(self, array: FloatArray) -> BoolArray:
        """Where values are not those of the background."""
        brighter = array > self.level + self.threshold
        if not self.is_inside:
            return brighter
        return np.asarray(brighter | (array < self.level - self.threshold))


def find_background(array: FloatArray, *, hu: bool) -> Background:
    """The background of an image (H, W) or a volume (I, J, K), by the values on its rim.

    In HU it is air, unless there is none and the rim has one value, as round a brain cut out of a CT. Else it is the
    most frequent value of the rim, whether or not it is the lowest of all; parts of the rim may show the head.
    A rim that shows too many values to be background leaves the lowest.

    Args:
        array: Finite values.
        hu: Whether they are HU.
    """
    rim = _rim(array)
    low, high = (float(value) for value in percentiles(ordered(array), RANGE_PERCENTILES))
    level, noise = _rim_level(rim, low, high)
    if hu and not _is_cut_out(array, rim, level):
        return Background(AIR_HU, TISSUE_ABOVE_HU - AIR_HU, False, low, high)
    reach = max(high - level, level - low)
    darker = np.count_nonzero(array < level - TISSUE_ABOVE_SHARE * reach) / array.size
    is_inside = bool(darker >= MIN_DARKER_SHARE)
    if is_inside and not _fills(level, MAX_SPREAD_SHARE * (high - low), array, rim):
        level, noise, reach, is_inside = low, 0.0, high - low, False
    if is_inside and np.mean(rim == level) >= MIN_RIM_SHARE:
        noise = 0.0  # the background is one value, and others of the rim are tissue
    share = TISSUE_ABOVE_SHARE_INSIDE if is_inside else TISSUE_ABOVE_SHARE
    threshold = min(max(share * reach, TISSUE_ABOVE_NOISE * noise), MAX_THRESHOLD_SHARE * reach)
    return Background(level, threshold, is_inside, low, high)


def _fills(level: float, spread: float, array: FloatArray, rim: FloatArray) -> bool:
    """Whether so much of the rim and of the whole lies near a level that it can be the background."""
    near_rim, near = (
        np.count_nonzero(np.abs(values - level) <= spread) / values.size for values in (rim, array)
    )
    return bool(near_rim >= MIN_RIM_SHARE and near >= MIN_PICTURE_SHARE)


def _rim(array: NDArray[Value]) -> NDArray[Value]:
    """The values on the edges of an image or on the faces of a volume."""
    faces = [np.take(array, end, axis).ravel() for axis in range(array.ndim) for end in (0, -1)]
    return np.concatenate(faces)


def _rim_level(rim: FloatArray, low: float, high: float) -> tuple[float, float]:
    """The most frequent value of the rim, and the standard deviation of those near to it, by their 90th percentile."""
    if not low < high:
        return low, 0.0
    width = (high - low) / RIM_BINS
    bins = ((rim.clip(low, high) - low) / width).astype(np.int64)
    peak = median(ordered(rim[bins == np.bincount(bins).argmax()]))
    reach = RIM_REACH_SHARE * max(high - peak, peak - low)
    near = rim[np.abs(rim - peak) <= reach]
    level = median(ordered(near))
    return level, percentile(ordered(np.abs(near - level)), 90) / 1.645


def _is_cut_out(array: FloatArray, rim: FloatArray, level: float) -> bool:
    """Whether values in HU show tissue on a constant that is no air."""
    if level <= TISSUE_ABOVE_HU or np.mean(array <= TISSUE_ABOVE_HU) > MAX_AIR_SHARE:
        return False
    return bool(np.mean(rim == level) >= MIN_CONSTANT_SHARE and np.ptp(array) > 0)


def head_mask(
    array: FloatArray,
    *,
    hu: bool,
    radius: float | None = None,
    spacing: Sequence[float] | None = None,
) -> BoolArray:
    """Where the head is: one filled region, with the skull, the sinuses and the ventricles.

    What is not background (`find_background`) is closed by a disk of 3 % of the short side, which joins scalp and brain
    over a skull that is dark in MR and shuts sinuses that open outwards; holes are filled; an opening by the same disk
    cuts off a head rest; the largest component is kept.

    Args:
        array: Slice (H, W) or volume (I, J, K).
        hu: Whether its values are HU.
        radius: Of the disk or ball, in the unit of `spacing`.
        spacing: Size of a pixel along each axis; 1 by default.

    Returns:
        Mask of the same shape; all False where there is no tissue.
    """
    if radius is None:
        radius = max(1, round(RADIUS_SHARE * min(array.shape)))
    return largest_region(find_background(array, hu=hu).tissue(array), radius, spacing)


def largest_region(
    tissue: BoolArray, radius: float, spacing: Sequence[float] | None = None
) -> BoolArray:
    """The largest region of tissue, closed, filled and without what is thinner than the disk or ball."""
    if not tissue.any():
        return tissue
    spacing = (1.0,) * tissue.ndim if spacing is None else spacing
    # Nothing of it reaches beyond the box about the tissue; one pixel more says that it ends there.
    box = box_around(tissue)
    filled = _without_holes(closing(tissue[box], radius, spacing))
    opened = ~closing(~filled, radius, spacing)
    labels, count = scipy.ndimage.label(opened if opened.any() else filled)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    region = np.zeros_like(tissue)
    region[box] = labels == 1 + sizes.argmax()
    return region


def _without_holes(mask: BoolArray) -> BoolArray:
    """The mask and all that it encloses, in half the time of `scipy.ndimage.binary_fill_holes`."""
    labels, count = scipy.ndimage.label(~mask)
    is_filled = np.ones(count + 1, dtype=np.bool_)
    is_filled[_rim(labels)] = False
    is_filled[0] = True
    return np.asarray(is_filled[labels])


def depth_within(mask: BoolArray) -> Matrix:
    """(H, W): pixels to the nearest one outside, in two thirds of the time of SciPy's own distances."""
    find = scipy.ndimage.distance_transform_edt
    down, across = find(mask, return_distances=False, return_indices=True)
    down -= np.arange(mask.shape[0], dtype=down.dtype)[:, None]
    across -= np.arange(mask.shape[1], dtype=across.dtype)
    return np.asarray(np.sqrt(down * down + across * across))


def closing(mask: BoolArray, radius: float, spacing: Sequence[float]) -> BoolArray:
    """The closing of a mask by a ball; the image goes on beyond its border as it ends there."""
    around = [math.ceil(radius / side) + 1 for side in spacing]
    padded = np.pad(mask, [(pixels, pixels) for pixels in around], mode="edge")
    closed = ~dilation(~dilation(padded, radius, spacing), radius, spacing)
    return closed[tuple(slice(pixels, -pixels) for pixels in around)]


def box_around(mask: BoolArray) -> tuple[slice, ...]:
    """The box about a mask that is not empty, and one pixel more where there is one."""
    axes = range(mask.ndim)
    places = [np.flatnonzero(mask.any(axis=tuple(a for a in axes if a != axis))) for axis in axes]
    return tuple(slice(max(0, int(along[0]) - 1), int(along[-1]) + 2) for along in places)


def dilation(mask: BoolArray, radius: float, spacing: Sequence[float]) -> BoolArray:
    """Where a mask is at most the radius away; nothing of it lies beyond the image.

    A small ball is laid over the mask row by row, which takes a fraction of the time of a map of distances.
    """
    rows = _ball(radius, tuple(spacing))
    if rows is None:
        if not mask.any():
            return mask.copy()
        return np.asarray(scipy.ndimage.distance_transform_edt(~mask, sampling=spacing) <= radius)
    dilated, wider, reached = np.zeros_like(mask), mask.copy(), 0
    for half, shifts in rows:
        for width in range(reached + 1, half + 1):  # `wider` by so many pixels along the last axis
            wider[..., width:] |= mask[..., :-width]
            wider[..., :-width] |= mask[..., width:]
        reached = half
        for shift in shifts:
            to = tuple(slice(max(0, by), min(0, by) or None) for by in shift)
            start = tuple(slice(max(0, -by), min(0, -by) or None) for by in shift)
            dilated[to] |= wider[start]
    return dilated


Rows = tuple[tuple[int, tuple[tuple[int, ...], ...]], ...]


@lru_cache(64)
def _ball(radius: float, spacing: tuple[float, ...]) -> Rows | None:
    """The rows of a ball along the last axis: pixels to either side of their middle -> where they lie; None if large."""
    reaches = [math.floor(radius / side) + 1 for side in spacing]  # pixels, perhaps one too many
    if 2 * max(reaches) + 1 > MAX_BALL:
        return None
    offsets = np.meshgrid(*[np.arange(-r, r + 1) for r in reaches], indexing="ij")
    squares = [np.square(at * float(side)) for at, side in zip(offsets, spacing, strict=True)]
    widths = np.count_nonzero(np.sqrt(np.add.reduce(squares)) <= radius, axis=-1)
    rows: dict[int, list[tuple[int, ...]]] = {}
    for place in np.argwhere(widths):
        shift = tuple(int(at) - reach for at, reach in zip(place, reaches[:-1], strict=True))
        rows.setdefault(int(widths[tuple(place)]) // 2, []).append(shift)
    return tuple((half, tuple(rows[half])) for half in sorted(rows))


@dataclass(frozen=True, eq=False)
class HeadRegion:
    """Where the head is in a canonical volume, found on a coarse grid of every n-th voxel.

    Attributes:
        coarse: Mask on the coarse grid.
        steps: Voxels from one node of that grid to the next, along I, J, K.
        values: Values of the volume at the nodes in the mask, in its unit.
        background: Round the head.
        top: Index K of the highest slice that shows some head.
        areas_mm2: Area of the head in each slice, (K,).
        is_found: Whether it was found, not vouched for.
    """

    coarse: BoolArray
    steps: tuple[int, int, int]
    values: FloatArray
    background: Background
    top: int
    areas_mm2: Matrix
    is_found: bool = True

    def on_air(self, volume: Volume) -> Volume:
        """The volume with what surrounds the head as dark as air, where its background is not.

        Args:
            volume: That the head was found in.
        """
        is_hu = volume.encoding == "HU"
        if not self.background.is_inside and not (is_hu and self.background.level > AIR_HU):
            return volume
        air = AIR_HU if is_hu else float(self.values.min())
        even = ~self.background.tissue(volume.in_float().array) | ~self.mask(volume.array.shape)
        return replace(volume, array=np.where(_from_edges(even), np.float32(air), volume.array))

    @cached_property
    def _wider(self) -> BoolArray:
        wider = scipy.ndimage.binary_dilation(self.coarse, np.ones((3, 3, 1), dtype=np.bool_))
        return np.asarray(wider)

    def mask(self, shape: tuple[int, ...], planes: slice = slice(None)) -> BoolArray:
        """The mask (I, J, K), or some planes K of it, on the grid of a volume of this shape.

        It is a node larger all around, so that no skin is lost.
        """
        wider = self._wider
        nodes = [
            np.minimum((np.arange(count) + step // 2) // step, coarse - 1)
            for count, step, coarse in zip(shape, self.steps, wider.shape, strict=True)
        ]
        return np.asarray(wider[np.ix_(*nodes[:2], nodes[2][planes])])


def find_head(volume: Volume, modality: Modality) -> HeadRegion | None:
    """The head in a canonical volume: one filled region that is not background; None if there is nothing.

    What is thinner than a head rest is cut off, and all but the largest region left out.
    """
    steps = tuple(max(1, round(NODE_MM / mm)) for mm in volume.spacing_mm)
    coarse = np.ascontiguousarray(volume.array[:: steps[0], :: steps[1], :: steps[2]], np.float32)
    # Rounded, since a header holds 2 mm as 2.0000001: NIfTI and DICOM of one head give one mask.
    spacing = [round(step * mm, 3) for step, mm in zip(steps, volume.spacing_mm, strict=True)]
    background = find_background(coarse, hu=modality == "ct" and volume.unit != "grey")
    mask = largest_region(background.tissue(coarse), RADIUS_MM[modality], spacing)
    areas = mask.sum(axis=(0, 1)) * spacing[0] * spacing[1]
    nodes = np.minimum(
        (np.arange(volume.array.shape[2]) + steps[2] // 2) // steps[2], coarse.shape[2] - 1
    )
    shown = np.flatnonzero(areas[nodes] >= TOP_MM2)
    if shown.size == 0:
        return None
    return HeadRegion(
        coarse=mask,
        steps=(steps[0], steps[1], steps[2]),
        values=coarse[mask],
        background=background,
        top=int(shown[-1]),
        areas_mm2=areas[nodes].astype(np.float64),
    )


def whole_volume(volume: Volume) -> HeadRegion:
    """All of a canonical volume, for one in which no head is found and that a user vouches for."""
    i, j, k = volume.array.shape
    low = float(volume.array.min())
    area_mm2 = i * j * volume.spacing_mm[0] * volume.spacing_mm[1]
    return HeadRegion(
        coarse=np.ones(volume.array.shape, dtype=np.bool_),
        steps=(1, 1, 1),
        values=volume.in_float().array.ravel(),
        background=Background(low, 0.0, False, low, float(volume.array.max())),
        top=k - 1,
        areas_mm2=np.full(k, area_mm2),
        is_found=False,
    )


def air_for_missing(array: FloatArray) -> tuple[FloatArray, float]:
    """A volume whose values outside the scan, NaN or infinite, are the lowest of the others; and their share.

    Outside is what is joined to an edge of the box. What is missing elsewhere, as in the head, is left as it is.

    Args:
        array: (I, J, K).
    """
    missing = ~np.isfinite(array)
    if not missing.any() or missing.all():
        return array, 0.0
    outside = _from_edges(missing)
    air = array[~missing].min()
    return np.where(outside, air, array), float(outside.mean())


def _from_edges(mask: BoolArray) -> BoolArray:
    """What of a mask (I, J, K) is joined to one of the twelve edges of the box."""
    ends = [np.isin(np.arange(side), (0, side - 1)).astype(np.int8) for side in mask.shape]
    at_edge = ends[0][:, None, None] + ends[1][:, None] + ends[2] >= 2
    labels, count = scipy.ndimage.label(mask)
    is_joined = np.zeros(count + 1, dtype=np.bool_)
    is_joined[labels[at_edge]] = True
    is_joined[0] = False
    return np.asarray(is_joined[labels])


def head_of_scan(scan: Scan, modality: Modality) -> BoolArray:
    """The head mask of one scan on its own grid; all False where there is no head."""
    if isinstance(scan, Volume):
        upright = canonical(scan)
        head = find_head(upright, modality)
        if head is None:
            return np.zeros(scan.array.shape, dtype=np.bool_)
        return like(head.mask(upright.array.shape).astype(np.float32), scan) > 0
    return head_mask(scan.grey, hu=scan.unit == "HU")
