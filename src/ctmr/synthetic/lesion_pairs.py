"""Synthetic heads with a lesion of each kind, beside the same heads without: which heads, and which slices of them."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ctmr.synthetic.data_folder import HEIGHTS_MM, pixel_spacing
from ctmr.synthetic.head import Head, synthesise_head
from ctmr.synthetic.lesions import LESIONS, Lesion
from ctmr.synthetic.scanner import Sequence as Weighting
from ctmr.system.parallel import in_processes
from ctmr.system.rng import stream

# A lesion's reach over its mean radius: its surface is uneven, and round a tumour lies oedema.
REACH, REACH_OF_TUMOUR = 1.25, 2.0
AT_A_TIME = 16  # heads; more are not kept in memory


class LesionPair(NamedTuple):
    """One head twice, with the same anatomy, scanner, grid and noise."""

    ill: Head
    """With one lesion of each kind, in the order of `LESIONS`."""
    healthy: Head
    """Without lesions."""
    planes: tuple[int, ...]
    """Index K of the slice through the centre of each lesion."""


def make_lesion_pairs(
    heads: int,
    seed: int,
    size: int,
    *,
    sequence: Weighting,
    heights_mm: Sequence[float],
    slice_mm: float,
) -> Iterator[LesionPair]:
    """Make pairs of heads, in processes; each is a pure function of the seed and its number.

    The centres of the lesions lie at heights at which `ctmr synth` makes slices, and no lesion reaches another.

    Args:
        heads: How many.
        seed: Of all; no seed of `ctmr synth` gives these heads.
        size: Side of a slice in pixels; the field of view differs between heads, as in `ctmr synth`.
        sequence: MR weighting.
        heights_mm: Slices beside those through the lesions, in mm below the top of the head.
        slice_mm: Thickness of a slice.
    """
    arguments = [(seed, n, size, sequence, tuple(heights_mm), slice_mm) for n in range(heads)]
    for start in range(0, heads, AT_A_TIME):
        yield from in_processes(_make, arguments[start : start + AT_A_TIME])


def _make(
    seed: int,
    n: int,
    size: int,
    sequence: Weighting,
    heights_mm: tuple[float, ...],
    slice_mm: float,
) -> LesionPair:
    head_seed, centres_mm = _draw(seed, n)
    heights = sorted({*heights_mm, *centres_mm}, reverse=True)
    ill, healthy = (
        synthesise_head(
            head_seed,
            shape=(size, size, 1),
            spacing_mm=(*pixel_spacing(head_seed, size), slice_mm),
            sequence=sequence,
            lesions=kinds,
            heights_mm=heights,
        )
        for kinds in (LESIONS, ())
    )
    return LesionPair(ill, healthy, tuple(heights.index(height) for height in centres_mm))


def _draw(seed: int, n: int) -> tuple[int, list[float]]:
    """The seed of the n-th head, the first whose lesions lie well, and their centres in mm below its top."""
    draw = stream(seed, "twins", n)  # the name decides the numbers
    while True:
        head_seed = int(draw.integers(2**31))
        # One tiny plane, 100 mm below the top, says where the lesions and the top are.
        probe = synthesise_head(head_seed, shape=(2, 2, 1), lesions=LESIONS, heights_mm=(100.0,))
        top = float(probe.affine[2, 3]) + 100.0
        centres_mm = [top - lesion.centre_mm[2] for lesion in probe.lesions]
        seen = all(min(HEIGHTS_MM) <= height <= max(HEIGHTS_MM) for height in centres_mm)
        if seen and all(_apart(a, b) for a, b in itertools.combinations(probe.lesions, 2)):
            return head_seed, centres_mm


def _apart(a: Lesion, b: Lesion) -> bool:
    return math.dist(a.centre_mm, b.centre_mm) > _reach_mm(a) + _reach_mm(b)


def _reach_mm(lesion: Lesion) -> float:
    return lesion.radius_mm * (REACH_OF_TUMOUR if lesion.kind == "tumour" else REACH)
