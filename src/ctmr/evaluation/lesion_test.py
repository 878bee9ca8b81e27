"""Whether a model erases or invents disease: its results for synthetic heads with lesions and for the same heads without."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import scipy

from ctmr.errors import DataError
from ctmr.evaluation.metrics.lesions import (
    DEVIATIONS,
    WHAT,
    Spread,
    Zones,
    can_tell,
    invented,
    spread,
    survives,
    zones,
)
from ctmr.evaluation.protocol import comparable
from ctmr.evaluation.statistics import wilson
from ctmr.imaging.image import Scan
from ctmr.imaging.volume import Volume
from ctmr.results import LesionDirection, LesionFigures, Lesions, LesionShares, Share
from ctmr.synthetic.data_folder import HEIGHTS_MM, SLICE_MM, head_images
from ctmr.synthetic.head import Head
from ctmr.synthetic.lesion_pairs import LesionPair, make_lesion_pairs
from ctmr.synthetic.lesions import LESIONS
from ctmr.synthetic.scanner import Sequence as Weighting
from ctmr.translation.translator import Translator
from ctmr.types import DIRECTION_TO, OTHER, FloatArray, Modality, Spacing

# A model of volumes needs the whole head to know the range of its grey values. These slices give its upper end within 1.5 %
# (6 heads, T1 and T2), in a fifth of the time that all would take.
VOLUME_HEIGHTS_MM = tuple(float(height) for height in range(165, 20, -20))
VOLUME_SLICE_MM = 3.0

Value = TypeVar("Value", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Case:
    """A slice through a lesion, cut to the brain; images (H, W) in the unit of the target."""

    kind: str
    at: Zones
    pixel_mm2: float
    truth: FloatArray
    result: FloatArray
    healthy_truth: FloatArray
    """The truth of the same slice without lesions."""
    healthy_result: FloatArray
    """What the model makes of that slice."""


def lesion_table(
    translator: Translator,
    *,
    sequence: Weighting = "t1",
    heads: int = 60,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Lesions:
    """Count the lesions that survive a translation, and the slices in which something is invented.

    Args:
        translator: Of a model trained on CT in HU and on MR images of 8 bits or MR volumes.
        sequence: MR weighting of the heads; that of the training data.
        heads: Heads with one lesion of each kind, and as many without.
        seed: Of the heads.
        progress: Called with heads done and heads to do.

    Returns:
        Shares (`ctmr help lesions`) with their numbers and Wilson's 95 % intervals.

    Raises:
        DataError: If the model was trained on other values.
        ValueError: If `heads` is less than 1.
    """
    if heads < 1:
        raise ValueError(f"heads must be at least 1: got {heads}")
    of_volumes = _of_volumes(translator)
    cases: dict[Modality, list[Case]] = {to: [] for to in DIRECTION_TO}
    made = make_lesion_pairs(
        heads,
        seed,
        translator.model.card.data.size,
        sequence=sequence,
        heights_mm=VOLUME_HEIGHTS_MM if of_volumes else HEIGHTS_MM,
        slice_mm=VOLUME_SLICE_MM if of_volumes else SLICE_MM,
    )
    for done, pair in enumerate(made, 1):
        for to in DIRECTION_TO:
            cases[to] += _cases(translator, pair, to)
        if progress is not None:
            progress(done, heads)
    units: dict[Modality, str] = {"ct": "HU", "mr": "MR" if of_volumes else "grey"}
    directions = {d: _figures(cases[to], units[to]) for to, d in DIRECTION_TO.items()}
    return Lesions(heads, seed, sequence, WHAT, directions)


def _of_volumes(translator: Translator) -> bool:
    """Whether the model takes volumes, not images, of which it knows the values that synthetic heads have."""
    intensities = translator.model.card.intensities
    ct, mr = (tuple(intensities[modality]) for modality in ("ct", "mr"))
    if ct != ("HU",) or mr not in (("8-bit",), ("MR",)):
        raise DataError(
            "expected a model of CT in HU and of MR images of 8 bits or MR volumes, as synthetic heads are: found CT"
            f" {' and '.join(ct)}, MR {' and '.join(mr)}",
            fix="train on a folder of ctmr synth",
        )
    return mr == ("MR",)


# -- from heads to cases -----------------------------------------------------------------------


def _cases(translator: Translator, pair: LesionPair, to: Modality) -> list[Case]:
    """The slices through the lesions of one head, translated."""
    ill, healthy = (_seen(translator, head, pair.planes, to) for head in (pair.ill, pair.healthy))
    spacing_mm = _spacing_mm(pair.ill)
    cases = []
    for n, lesion in enumerate(pair.ill.lesions):
        k = pair.planes[n]
        at = zones(
            _upright(pair.ill.labels, k),
            lesion.kind,
            spacing_mm,
            ct=_upright(pair.ill.ct, k),
            healthy_ct=_upright(pair.healthy.ct, k),
        )
        # What lies outside the brain is not looked at, so it is not kept.
        box = (
            scipy.ndimage.find_objects(at.brain.astype(np.uint8)) or [(slice(None), slice(None))]
        )[0]
        truth, result, healthy_truth, healthy_result = (
            images[n][box].copy() for images in (*ill, *healthy)
        )
        cases.append(
            Case(
                kind=lesion.kind,
                at=Zones(*(mask[box].copy() for mask in at)),
                pixel_mm2=spacing_mm[0] * spacing_mm[1],
                truth=truth,
                result=result,
                healthy_truth=healthy_truth,
                healthy_result=healthy_result,
            )
        )
    return cases


def _seen(
    translator: Translator, head: Head, planes: Sequence[int], to: Modality
) -> tuple[list[FloatArray], list[FloatArray]]:
    """The truth and the model's result (rows, columns) for these slices of a head."""

    def translated(scan: Scan) -> FloatArray:
        return translator.translation(scan, to, quality="none", anyway=True).scan.array

    if not _of_volumes(translator):
        images = head_images(head, _spacing_mm(head))
        truths = [images[to][k].array for k in planes]
        return truths, [translated(images[OTHER[to]][k]) for k in planes]
    scans = {"ct": Volume(head.ct, head.affine, "ct"), "mr": Volume(head.mr, head.affine, "mr")}
    pair = comparable(scans[to], head.mask), translated(scans[OTHER[to]])
    truths, results = ([_upright(array, k) for k in planes] for array in pair)
    return truths, results


def _upright(array: npt.NDArray[Value], k: int) -> npt.NDArray[Value]:
    """A slice of an array (I, J, K) in RAS as (rows, columns), as images are."""
    return array[::-1, ::-1, k].T


def _spacing_mm(head: Head) -> Spacing:
    return float(head.affine[1, 1]), float(head.affine[0, 0])


# -- from cases to figures ---------------------------------------------------------------------


def _figures(cases: Sequence[Case], unit: str) -> LesionDirection:
    """What is counted in one direction."""
    healthy = spread((case.healthy_result - case.healthy_truth)[case.at.brain] for case in cases)
    of_kind = {k: _of_kind([case for case in cases if case.kind == k], healthy) for k in LESIONS}
    return LesionDirection(unit, limit=round(DEVIATIONS * healthy.sd, 4), lesions=of_kind)


def _of_kind(cases: Sequence[Case], healthy: Spread) -> LesionFigures:
    """The shares of one kind of lesion, those of healthy heads and those of the truth."""
    told = [c for c in cases if can_tell(c.truth, c.healthy_truth, c.at, c.pixel_mm2)]
    return LesionFigures(
        survives=_share(survives(c.result, c.truth, c.at) for c in told),
        invented=_share(_invents(c, c.result - c.truth, healthy) for c in cases),
        detectable=_share(_detectable(c, healthy) for c in cases),
        healthy=LesionShares(
            survives=_share(survives(c.healthy_result, c.truth, c.at) for c in told),
            invented=_share(
                _invents(c, c.healthy_result - c.healthy_truth, healthy) for c in cases
            ),
        ),
        truth=LesionShares(
            survives=_share(survives(c.truth, c.truth, c.at) for c in told),
            invented=_share(_invents(c, c.truth - c.truth, Spread(0.0, 0.0)) for c in cases),
        ),
    )


def _invents(case: Case, error: FloatArray, healthy: Spread) -> bool:
    """Whether something is invented away from the lesions."""
    return invented(error, case.at.elsewhere, healthy, case.pixel_mm2)


def _detectable(case: Case, healthy: Spread) -> bool:
    """Whether the lesion, drawn by the model into a healthy head just as the truth has it, would count as invented."""
    drawn = case.healthy_result + (case.truth - case.healthy_truth)
    return invented(drawn - case.healthy_truth, case.at.lesion, healthy, case.pixel_mm2)


def _share(outcomes: Iterable[bool]) -> Share:
    """How often it is so."""
    counted = list(outcomes)
    n, successes = len(counted), sum(counted)
    return Share(successes / n, n, wilson(successes, n)) if n else Share(None, 0, None)
