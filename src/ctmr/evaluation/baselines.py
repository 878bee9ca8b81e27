"""Baselines that a model has to beat: a copy, the mean of other patients, the best monotone map of grey values."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from ctmr.data.pairs import Pair, head_of, read_pair
from ctmr.evaluation.protocol import SPANS, comparable
from ctmr.imaging.image import Image, Scan
from ctmr.imaging.volume import canonical
from ctmr.types import BoolArray, Encoding, FloatArray, Modality

# Common grids of the means, (nodes along each axis, mm between them): they hold a head and its surroundings.
IMAGE_GRID = (160, 1.75)
VOLUME_GRID = (64, 4.0)
NODES_ABOVE_HEAD = 6  # nodes above the top of the head in the grid of volumes
COPY, MEAN, MAP = BASELINES = ("copy", "mean image", "monotone map")
BINS = 4096  # of source values in the monotone map: one HU, or 16 of 65536 grey levels, in each

Doubles = NDArray[np.float64]
# Direction, values of source and truth, number of axes: pairs that differ in these do not serve each other.
Kind = tuple[Modality, Encoding, Encoding, int]


@dataclass(eq=False)
class Sums:
    """Sums over pairs of one kind.

    Attributes:
        truths: By level, the number of truths and their sum on the common grid.
        bins: For each bin of source values, the pixels of heads in it and the sum of their truths, (2, BINS).
    """

    truths: dict[int | None, tuple[int, Doubles]] = field(default_factory=dict)
    bins: Doubles = field(default_factory=lambda: np.zeros((2, BINS)))


@dataclass(eq=False)
class Baselines:
    """The baseline translations of each of some pairs, made of the pairs of the other patients.

    Leaving a patient out is a subtraction of sums. In memory are the sums over all pairs and those over the pairs of
    the latest patient, which are read again: 0.4 MB for each direction and level of images, 4 MB for volumes, however
    many pairs there are.

    Attributes:
        pairs: Those that are evaluated.
        to: Modalities that translations are wanted of.
        total: Over all pairs.
        left_out: The latest patient.
        own: Over the pairs of that patient.
    """

    pairs: Sequence[Pair]
    to: Collection[Modality]
    total: dict[Kind, Sums]
    left_out: str | None = None
    own: dict[Kind, Sums] = field(default_factory=dict)

    def translate(
        self, pair: Pair, images: Mapping[Modality, Scan], mask: BoolArray, to: Modality
    ) -> dict[str, FloatArray]:
        """Translate a pair with each baseline, by its name.

        `copy` is the source, its range of values stretched onto that of the truth. `mean image` is the mean truth of the
        other patients: of the same level (`Pair.level`) if they have it, else of all. Images lie centre on centre;
        volumes with the tops of the heads, and their middles, on each other. `monotone map` gives each source value
        the truth that fits best in the other patients' heads, in least squares, of all maps that rise or fall.

        Args:
            pair: The pair in question.
            images: Its scans.
            mask: Its head mask, by which volumes are aligned.
            to: Modality of the truth.

        Returns:
            Arrays like `comparable` gives of the truth; a copy alone where no other patient has scans of this kind.

        Raises:
            CtmrError: If a pair of the patient cannot be read any more.
        """
        if pair.patient != self.left_out:
            pairs = [other for other in self.pairs if other.patient == pair.patient]
            self.left_out, self.own = pair.patient, _sums(pairs, self.to)
        source, truth = images[_other(to)], images[to]
        values = comparable(source, mask)
        spans = SPANS[source.encoding], SPANS[truth.encoding]
        translations = {COPY: np.interp(values, *spans).astype(np.float32)}
        kind = _kind(images, to)
        total, own = self.total.get(kind, Sums()), self.own.get(kind, Sums())
        mean = _mean(total.truths, own.truths, pair.level)
        if mean is not None:
            translations[MEAN] = _from_grid(mean, source, mask)
            table = _monotone(total.bins - own.bins)
            translations[MAP] = table[_bins(values, source.encoding)]
        return translations


def fit_baselines(pairs: Sequence[Pair], to: Collection[Modality]) -> Baselines:
    """Read all pairs once and sum what the baselines are made of.

    Args:
        pairs: Those that are evaluated.
        to: Modalities that translations are wanted of.

    Raises:
        CtmrError: If a pair cannot be read.
    """
    return Baselines(pairs, to, _sums(pairs, to))


def _sums(pairs: Sequence[Pair], to: Collection[Modality]) -> dict[Kind, Sums]:
    found: dict[Kind, Sums] = {}
    for pair in pairs:
        images = read_pair(pair)
        mask = head_of(pair, images)
        for modality in to:
            source, truth = images[_other(modality)], images[modality]
            sums = found.setdefault(_kind(images, modality), Sums())
            actual = comparable(truth, mask)
            place = _bins(comparable(source, mask)[mask], source.encoding)
            sums.bins[0] += np.bincount(place, minlength=BINS)
            sums.bins[1] += np.bincount(place, actual[mask], minlength=BINS)
            count, before = sums.truths.get(pair.level, (0, np.zeros(1)))
            sums.truths[pair.level] = count + 1, before + _to_grid(actual, truth, mask)
    return found


def _kind(images: Mapping[Modality, Scan], to: Modality) -> Kind:
    truth = images[to]
    return to, images[_other(to)].encoding, truth.encoding, truth.grey.ndim


def _other(modality: Modality) -> Modality:
    return "mr" if modality == "ct" else "ct"


def _bins(array: FloatArray, values: Encoding) -> NDArray[np.intp]:
    """The bin of each value, 0..BINS - 1; those beyond the span are at its ends."""
    return np.rint(np.interp(array, SPANS[values], (0, BINS - 1))).astype(np.intp)


def _mean(
    total: Mapping[int | None, tuple[int, Doubles]],
    own: Mapping[int | None, tuple[int, Doubles]],
    level: int | None,
) -> Doubles | None:
    """The mean truth of a level without a patient's own, of all levels if there is none, None if there is none at all."""
    rest: dict[int | None, tuple[int, Doubles]] = {}
    for key, (count, truths) in total.items():
        own_count, own_truths = own.get(key, (0, np.zeros(1)))
        if count > own_count:
            rest[key] = count - own_count, truths - own_truths
    chosen = [rest[level]] if level in rest else list(rest.values())
    if not chosen:
        return None
    mean: Doubles = np.sum([truths for _, truths in chosen], axis=0)
    return mean / sum(count for count, _ in chosen)


def _monotone(bins: Doubles) -> FloatArray:
    """The truth that the monotone least-squares map gives each bin, (BINS,); linear between bins that hold pixels."""
    places = np.flatnonzero(bins[0])
    weight = bins[0, places]
    mean = bins[1, places] / weight
    fits = [
        scipy.optimize.isotonic_regression(mean, weights=weight, increasing=rising).x
        for rising in (True, False)
    ]
    best: Doubles = min(fits, key=lambda fit: float((weight * (fit - mean) ** 2).sum()))
    return np.interp(np.arange(BINS), places, best).astype(np.float32)


class _Frame(NamedTuple):
    """How a scan lies on the common grid: a pixel that lies on a node, and the pixels between two nodes."""

    nodes: int
    node: Doubles
    pixel: Doubles
    step: Doubles


def _frame(scan: Scan, mask: BoolArray) -> _Frame:
    if isinstance(scan, Image):
        nodes, mm = IMAGE_GRID
        shape = np.array(mask.shape, dtype=np.float64)
        step = shape / nodes if scan.spacing_mm is None else mm / np.array(scan.spacing_mm)
        return _Frame(nodes, np.full(2, (nodes - 1) / 2), (shape - 1) / 2, step)
    nodes, mm = VOLUME_GRID
    head = canonical(replace(scan, array=mask.astype(np.float32)))
    i, j, k = scipy.ndimage.find_objects((head.array > 0).view(np.uint8))[0]
    pixel = np.array([(i.start + i.stop) // 2, (j.start + j.stop) // 2, k.stop - 1])
    node = np.array([nodes // 2, nodes // 2, nodes - 1 - NODES_ABOVE_HEAD])
    return _Frame(nodes, node, pixel, mm / np.array(head.spacing_mm))


def _to_grid(array: FloatArray, scan: Scan, mask: BoolArray) -> FloatArray:
    """An array like the scan's on the common grid; its border value goes on outside."""
    frame = _frame(scan, mask)
    array = replace(scan, array=array).upright().array
    blur = 0.4 * np.sqrt(np.maximum(frame.step**2 - 1, 0))  # of a pixel as large as a node's
    smooth = scipy.ndimage.gaussian_filter(array, blur, mode="nearest", truncate=2)
    return _resampled(
        smooth, frame.step, frame.pixel - frame.step * frame.node, (frame.nodes,) * array.ndim
    )


def _from_grid(mean: Doubles, scan: Scan, mask: BoolArray) -> FloatArray:
    """The mean as an array like the scan's; its border value goes on outside."""
    frame = _frame(scan, mask)
    shape = scan.upright().grey.shape
    array = _resampled(
        mean.astype(np.float32), 1 / frame.step, frame.node - frame.pixel / frame.step, shape
    )
    return scan.like(array)


def _resampled(
    array: FloatArray, step: Doubles, start: Doubles, shape: tuple[int, ...]
) -> FloatArray:
    """The array at the places start + step * n, linear in between."""
    found: FloatArray = scipy.ndimage.affine_transform(
        array, np.diag(step), start, shape, order=1, mode="nearest"
    )
    return found
