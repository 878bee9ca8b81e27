"""What is measured of a result against the truth: every figure with its unit, its mask and its range."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ctmr.evaluation.metrics import full_reference as metrics
from ctmr.evaluation.metrics.full_reference import dice, hd95
from ctmr.imaging.head import (
    NODE_MM,
    TISSUE_ABOVE_HU,
    TISSUE_ABOVE_SHARE,
    find_head,
    head_mask,
)
from ctmr.imaging.image import Scan
from ctmr.imaging.intensity import MR_UNITS, UNITLESS
from ctmr.imaging.volume import Volume
from ctmr.results import Definition
from ctmr.types import BoolArray, Encoding, FloatArray

# Range of the values in PSNR, SSIM and MS-SSIM: SynthRAD2023's for HU, else all that they can be.
SPANS: dict[Encoding, metrics.Span] = {
    "HU": (-1024.0, 3000.0),
    "8-bit": (0.0, 255.0),
    "16-bit": (0.0, 65535.0),
    "MR": (MR_UNITS.low, MR_UNITS.high),
    "grey": (MR_UNITS.low, MR_UNITS.high),
}
UNITS: dict[Encoding, str] = {
    "HU": "HU",
    "8-bit": "grey",
    "16-bit": "grey",
    "MR": "MR",
    "grey": "grey",
}
AIR_BELOW, BONE_ABOVE = -200.0, 200.0  # HU; between is soft tissue


@dataclass(frozen=True, eq=False)
class Compared:
    """A result beside the truth, (H, W) or (I, J, K), with the head mask and what the values are."""

    result: FloatArray
    truth: FloatArray
    mask: BoolArray
    values: Encoding
    spacing_mm: tuple[float, ...] | None

    def masked(self, metric: Callable[[FloatArray, FloatArray, BoolArray], float]) -> float:
        """A metric in the head mask."""
        return metric(self.result, self.truth, self.mask)

    def clipped(
        self, metric: Callable[[FloatArray, FloatArray, BoolArray, metrics.Span], float]
    ) -> float:
        """A metric in the head mask that clips to the range of the values."""
        return metric(self.result, self.truth, self.mask, SPANS[self.values])

    def mae_of(self, tissue: BoolArray) -> float:
        """MAE where the head mask has that tissue; nan if it has none."""
        where = self.mask & tissue
        return metrics.mae(self.result, self.truth, where) if where.any() else math.nan

    @property
    def bones(self) -> tuple[BoolArray, BoolArray]:
        """Bone of both in the head mask."""
        return self.mask & (self.result > BONE_ABOVE), self.mask & (self.truth > BONE_ABOVE)

    @cached_property
    def heads(self) -> tuple[BoolArray, BoolArray, tuple[float, ...] | None]:
        """The head of both and the size of its pixels: of a volume every n-th voxel, so that they lie 2 mm apart."""
        arrays, spacing = (self.result, self.truth), self.spacing_mm
        if self.truth.ndim == 3:
            voxel = spacing or (1.0, 1.0, 1.0)
            i, j, k = (max(1, round(NODE_MM / mm)) for mm in voxel)
            arrays = self.result[::i, ::j, ::k], self.truth[::i, ::j, ::k]
            spacing = (i * voxel[0], j * voxel[1], k * voxel[2])
        first, second = (_head(array, self.values, spacing) for array in arrays)
        return first, second, spacing


@dataclass(frozen=True, eq=False)
class Figure:
    """One figure: what it is and how it is measured.

    Attributes:
        name: In words.
        unit: None for that of the values; "mm" is pixels where the spacing is not known.
        mask: Where it is measured.
        range: Which values count, and how.
        higher_is_better: Whether a higher figure is a better one.
        measure: Nan where it is not defined.
        values: Of which scans it is measured.
    """

    name: str
    unit: str | None
    mask: str
    range: str
    higher_is_better: bool
    measure: Callable[[Compared], float]
    values: tuple[Encoding, ...] = tuple(SPANS)


HU: tuple[Encoding, ...] = ("HU",)
UNSCALED: tuple[Encoding, ...] = ("8-bit", "16-bit", "MR", "grey")  # no accepted unit
IN_HEAD, WHOLE = "head mask", "none: whole image"
ALL, CLIPPED = "not clipped", "clipped to {low:g}..{high:g}"
BONE = f"above {BONE_ABOVE:g} HU"
HEAD = (
    f"above {TISSUE_ABOVE_HU:g} HU, else above {TISSUE_ABOVE_SHARE:.0%} of the way from the background on the rim to the"
    " brightest tissue; closed, filled, without what is thin; volumes at every 2 mm"
)
NO_DICE = "; 0 if only one of the two has such, left out if none has"
NO_DISTANCE = "; the diagonal of the image if only one of the two has such, left out if none has"
FIGURES: dict[str, Figure] = {
    "mae": Figure(
        "mean absolute error", None, IN_HEAD, ALL, False, lambda pair: pair.masked(metrics.mae)
    ),
    "psnr": Figure(
        "peak signal-to-noise ratio",
        "dB",
        IN_HEAD,
        CLIPPED,
        True,
        lambda pair: pair.clipped(metrics.psnr),
    ),
    "ssim": Figure(
        "structural similarity",
        "",
        IN_HEAD + " less 3 pixels at each border of the image",
        CLIPPED + ", the lower end outside the mask",
        True,
        lambda pair: pair.clipped(metrics.ssim),
    ),
    "ms_ssim": Figure(
        "structural similarity at five scales",
        "",
        IN_HEAD + " less 3 pixels at each border of the image, at each scale",
        CLIPPED
        + f", the lower end outside the mask; sides extended to {metrics.MIN_MS_SSIM_SIDE} pixels",
        True,
        lambda pair: pair.clipped(metrics.ms_ssim),
    ),
    "mae_air": Figure(
        "mean absolute error of air",
        None,
        f"{IN_HEAD} where the truth is below {AIR_BELOW:g} HU",
        ALL,
        False,
        lambda pair: pair.mae_of(pair.truth < AIR_BELOW),
        HU,
    ),
    "mae_soft": Figure(
        "mean absolute error of soft tissue",
        None,
        f"{IN_HEAD} where the truth is from {AIR_BELOW:g} to {BONE_ABOVE:g} HU",
        ALL,
        False,
        lambda pair: pair.mae_of((pair.truth >= AIR_BELOW) & (pair.truth <= BONE_ABOVE)),
        HU,
    ),
    "mae_bone": Figure(
        "mean absolute error of bone",
        None,
        f"{IN_HEAD} where the truth is above {BONE_ABOVE:g} HU",
        ALL,
        False,
        lambda pair: pair.mae_of(pair.truth > BONE_ABOVE),
        HU,
    ),
    "dice_bone": Figure(
        "Dice coefficient of bone",
        "",
        IN_HEAD,
        BONE + NO_DICE,
        True,
        lambda pair: dice(*pair.bones),
        HU,
    ),
    "hd95_bone": Figure(
        "95 % Hausdorff distance of bone",
        "mm",
        IN_HEAD,
        BONE + NO_DISTANCE,
        False,
        lambda pair: hd95(*pair.bones, pair.spacing_mm),
        HU,
    ),
    "dice_head": Figure(
        "Dice coefficient of the head",
        "",
        WHOLE,
        HEAD + NO_DICE,
        True,
        lambda pair: dice(*pair.heads[:2]),
    ),
    "hd95_head": Figure(
        "95 % Hausdorff distance of the head",
        "mm",
        WHOLE,
        HEAD + NO_DISTANCE,
        False,
        lambda pair: hd95(*pair.heads),
    ),
    "mae_shifted": Figure(
        f"mean absolute error at the best shift within {metrics.MAX_SHIFT} pixels",
        None,
        IN_HEAD,
        ALL,
        False,
        lambda pair: pair.masked(metrics.mae_shifted),
    ),
    "mae_z": Figure(
        "mean absolute error of z-scores",
        "standard deviations",
        IN_HEAD,
        "each image at mean 0 and standard deviation 1 in the mask",
        False,
        lambda pair: pair.masked(metrics.mae_z),
        UNSCALED,
    ),
    "nmi": Figure(
        "normalised mutual information",
        "",
        IN_HEAD,
        f"{metrics.BINS} bins from the smallest to the largest value in the mask",
        True,
        lambda pair: pair.masked(metrics.nmi),
        UNSCALED,
    ),
}


def score(
    result: FloatArray,
    truth: FloatArray,
    mask: BoolArray,
    *,
    values: Encoding,
    spacing_mm: tuple[float, ...] | None = None,
    only: Collection[str] | None = None,
) -> dict[str, float]:
    """The figures of a result, under their keys in `FIGURES`.

    Args:
        result: Image (H, W), or volume (I, J, K) with its slices along K: HU, grey levels, or MR units 0..1000.
        truth: Of the same shape, in the same unit.
        mask: Head mask of the same shape.
        values: What the values are.
        spacing_mm: Size of a pixel along each axis, if known.
        only: Keys of the figures wanted; None for all.

    Returns:
        Those that are measured of such values, without those that are not defined here, such as the MAE of bone where
        the truth has none.

    Raises:
        ValueError: If the shapes differ, the mask is empty or a key is unknown.
    """
    unknown = set(only or ()) - FIGURES.keys()
    if unknown:
        raise ValueError(f"only must hold keys of FIGURES: got {sorted(unknown)}")
    pair = Compared(result, truth, mask, values, spacing_mm)
    wanted = [key for key in FIGURES if only is None or key in only]
    found = {k: FIGURES[k].measure(pair) for k in wanted if values in FIGURES[k].values}
    return {key: figure for key, figure in found.items() if not math.isnan(figure)}


def described(values: Encoding, *, in_mm: bool) -> dict[str, Definition]:
    """How each figure of such values is measured.

    Args:
        values: What the values are.
        in_mm: Whether the spacing is known; distances are in pixels if not.
    """
    low, high = SPANS[values]
    units = {"mm": "mm" if in_mm else "pixels", None: UNITS[values]}
    return {
        key: Definition(
            figure.name,
            unit=units.get(figure.unit, str(figure.unit)),
            mask=figure.mask,
            range=figure.range.format(low=low, high=high),
            better="higher" if figure.higher_is_better else "lower",
        )
        for key, figure in FIGURES.items()
        if values in figure.values
    }


def _head(array: FloatArray, values: Encoding, spacing: tuple[float, ...] | None) -> BoolArray:
    if array.ndim == 2 or spacing is None:
        return head_mask(array, hu=values == "HU")
    volume = Volume(np.ascontiguousarray(array), np.diag([*spacing, 1.0]))
    region = find_head(volume, "ct" if values == "HU" else "mr")
    shape = volume.array.shape
    return np.zeros(shape, dtype=np.bool_) if region is None else region.mask(shape)


def comparable(scan: Scan, mask: BoolArray) -> FloatArray:
    """The values of a scan as they are compared: HU, grey levels, or MR units.

    Args:
        scan: A scan of a pair.
        mask: Its head mask.

    Returns:
        (H, W), the mean of colours; or (I, J, K), of an MR volume, or a CT without HU, with 0 and 1000 at the 0.5 and 99.5 percentiles of its
        head and clipped to them, as a model reads and writes it.
    """
    if scan.encoding not in UNITLESS:
        return scan.grey
    return MR_UNITS.from_unit(MR_UNITS.fitted(scan.array[mask]).to_unit(scan.array))
