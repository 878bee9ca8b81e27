"""What the values of a CT are: HU, or what a user vouches for where a file lost them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import scipy

from ctmr.errors import UsageError
from ctmr.imaging.image import Image, Scan
from ctmr.imaging.volume import pieces
from ctmr.types import BoolArray, FloatArray

CT_VALUES = ("hu", "hu+1024", "grey")
OFFSET_HU = 1024.0
AIR_HU = -1024.0
MAX_WINDOW_HU = (-10_000.0, 100_000.0)
RIM_SHARE = 0.9  # of the faces of a volume: a value that fills so much of them is its rim
# A head CT in HU has air around it: at least this share of voxels lies at or below -500 HU, and hardly any MR has them.
AIR_BELOW_HU, AIR_SHARE = -500.0, 0.02
# And it has bone, though hardly anything beyond metal: its 99.9 percentile lies between.
BONE_HU, BONE_SHARE = (200.0, 5000.0), 0.001
# Values of a head without its surroundings, in HU: fluid and brain, skull and metal.
SOFT_HU = (-150.0, 150.0)
BRAIN_HU = (5.0, 60.0)  # the median of a head that was cut out lies between
# Of what is no air, at least so much is soft, and at most so much darker.
SOFT_SHARE, EDGE_SHARE = 0.6, 0.15


def window_of(ct_values: str) -> tuple[float, float] | None:
    """(low, high) in HU of `LOW:HIGH`; None for the other words.

    Raises:
        UsageError: If it is none of `CT_VALUES` and no such window.
    """
    if ct_values in CT_VALUES:
        return None
    try:
        low, high = map(float, ct_values.split(":"))
    except ValueError:
        low = high = 0.0
    if not MAX_WINDOW_HU[0] <= low < high <= MAX_WINDOW_HU[1]:
        raise UsageError(
            f"expected --ct-values {', '.join(CT_VALUES)} or LOW:HIGH in HU: found {ct_values!r}",
            fix="write for example --ct-values 0:80",
        )
    return low, high


def with_ct_values(scan: Scan, ct_values: str) -> Scan:
    """A CT in HU, or in grey values with `grey`, as a user vouched for its values.

    Of a volume in HU the constant rim, as it stands around a head that was cut out, becomes air. An image that is in HU
    already, as its `ctmr.json` says, stays as it is.

    Args:
        scan: A CT with the values that its file has.
        ct_values: `hu`: they are HU. `hu+1024`: HU + 1024. `LOW:HIGH`: the window in HU that the grey range of the file
            stands for, which is that of 8 or 16 bits for an image and from the lowest to the highest value for a volume.
            `grey`: grey values, of which HU are not known.

    Raises:
        UsageError: If `ct_values` is none of these.
    """
    window = window_of(ct_values)
    if isinstance(scan, Image) and scan.unit == "HU":
        return scan
    array = scan.array
    if ct_values == "hu+1024":
        array = array - np.float32(OFFSET_HU)
    elif window is not None:
        low, high = window
        first, last = _grey_range(scan)
        array = np.float32(low) + (array - np.float32(first)) * np.float32(
            (high - low) / max(last - first, 1e-6)
        )
    if isinstance(scan, Image):
        return scan if ct_values == "grey" else replace(scan, array=array, unit="HU")
    if ct_values == "grey":
        return replace(scan, modality="ct", unit="grey")
    return replace(scan, array=_air_for_rim(array), modality="ct", unit="HU")


def looks_like_hu(array: FloatArray, offset: float = 0.0) -> bool:
    """Whether the values, less an offset, are those of a head CT in HU, with air and bone."""
    bone, beyond = BONE_HU
    least = _count(array, offset, lambda hu: hu > bone) / array.size
    most = _count(array, offset, lambda hu: hu > beyond) / array.size
    return air_share(array, offset) >= AIR_SHARE and least >= BONE_SHARE >= most


def looks_like_offset_hu(array: FloatArray) -> bool:
    """Whether the values are those of a head CT in HU + 1024: air at 0, nearly all else near 1024.

    An MR has tissue of all values between; a CT has only the edges of tissue there.
    """
    if not looks_like_hu(array, OFFSET_HU):
        return False
    low, high = SOFT_HU
    tissue = _count(array, OFFSET_HU, lambda hu: hu > AIR_BELOW_HU)
    soft = _count(array, OFFSET_HU, lambda hu: (hu > low) & (hu < high))
    edge = _count(array, OFFSET_HU, lambda hu: (hu > AIR_BELOW_HU) & (hu < low))
    return soft / tissue >= SOFT_SHARE and edge / tissue <= EDGE_SHARE


def air_share(array: FloatArray, offset: float = 0.0) -> float:
    """Share of the values, less an offset, at or below -500 HU."""
    return _count(array, offset, lambda hu: hu <= AIR_BELOW_HU) / array.size


def _count(array: FloatArray, offset: float, is_meant: Callable[[FloatArray], BoolArray]) -> int:
    """Of how many values, less an offset, something holds."""
    return sum(int(is_meant(some - np.float32(offset)).sum()) for some in pieces(array))


def advice(array: FloatArray) -> tuple[str, str]:
    """What the values of a CT that are not HU look like, and what the user can do."""
    if looks_like_offset_hu(array):
        return "looks like HU + 1024", "give --ct-values hu+1024"
    if looks_cut_out(array):
        what = f"looks like HU with the head cut out, {rim_of(array):g} around it"
        return what, "give --ct-values hu"
    low, high = np.percentile(array, (0.1, 99.9))
    return (
        f"looks windowed or normalised, from {low:.3g} to {high:.3g}",
        "convert the values to HU; or give --ct-values LOW:HIGH, the window in HU of the grey range; or give"
        " --ct-values grey to train on grey values, which loses HU",
    )


def looks_cut_out(array: FloatArray) -> bool:
    """Whether values other than those of a constant rim are mostly those of brain in HU."""
    rim = rim_of(array)
    if rim is None:
        return False
    inside = array[array != rim].astype(np.float32, copy=False)
    return bool(inside.size) and _looks_like_soft_hu(inside)


def rim_of(array: FloatArray) -> float | None:
    """The value that nearly all of the faces of a volume (I, J, K) have; None if there is no such value."""
    faces = np.concatenate([face.ravel() for face in _faces(array)])
    values, counts = np.unique(faces, return_counts=True)
    place = int(counts.argmax())
    return float(values[place]) if counts[place] >= RIM_SHARE * faces.size else None


def _faces(array: FloatArray) -> list[FloatArray]:
    """The faces along I and J: a head is often cut by the first or the last slice."""
    return [array[0], array[-1], array[:, 0], array[:, -1]]


def _looks_like_soft_hu(inside: FloatArray) -> bool:
    """Whether values without those of the rim are mostly those of brain in HU, of more than one window's width."""
    low, middle, high = np.percentile(inside, (5, 50, 99))
    return bool(BRAIN_HU[0] < middle < BRAIN_HU[1] and low >= SOFT_HU[0] and high - low > 20)


def _grey_range(scan: Scan) -> tuple[float, float]:
    if isinstance(scan, Image):
        return 0.0, 2.0**scan.depth - 1
    return float(scan.array.min()), float(scan.array.max())


def _air_for_rim(array: FloatArray) -> FloatArray:
    """The volume in HU with the constant rim about the head, and what is joined to it, as air."""
    rim = rim_of(array)
    if rim is None or rim <= AIR_BELOW_HU:
        return array
    labels, _ = scipy.ndimage.label(array == rim)
    outside = np.unique(np.concatenate([face.ravel() for face in _faces(labels)]))
    air: BoolArray = np.isin(labels, outside[outside > 0])
    return np.where(air, np.float32(AIR_HU), array)
