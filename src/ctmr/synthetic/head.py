"""Synthetic heads with a known truth: one label map, seen by a CT and by a spin-echo MR scanner."""

from collections.abc import Sequence as Many
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from ctmr.synthetic.anatomy import Subject, coarse_fields, draw_subject, surfaces
from ctmr.synthetic.lesions import LESIONS, Lesion, place_lesions
from ctmr.synthetic.scanner import Protocol, Sequence, ct_plane, draw_protocol, expose, mr_plane
from ctmr.synthetic.shapes import (
    Array,
    Axis,
    Lattice,
    Points,
    cubic_weights,
    enclosing_lattice,
    plane_waves,
    upsample,
    wave_field,
)
from ctmr.synthetic.tissues import layers

Image = npt.NDArray[np.float32]

STEP_MM = 3.0
"""Node distance of the lattice that carries the anatomy."""
SCOUT_MM = 7.0
"""Node distance of the first look that sets size and position."""
SCOUT_BOX = (-110.0, -150.0, -170.0), (110.0, 130.0, 120.0)
BIAS_STEP_MM = 20.0
BRAIN_SHARE = 0.89
"""Brain within its smooth envelope, measured over 20 seeds; the rest is CSF in the sulci."""


@dataclass(frozen=True, eq=False)
class Head:
    """One synthetic head in both modalities on one grid: I to the right, J to the front, K up."""

    labels: npt.NDArray[np.uint8]
    """Tissue (I, J, K), an index into `LABELS`."""
    ct: Image
    """CT (I, J, K) in HU, air -1000."""
    mr: Image
    """MR (I, J, K) in arbitrary scanner units, >= 0."""
    mask: npt.NDArray[np.bool_]
    """Head (I, J, K) with skin, air cavities filled."""
    affine: npt.NDArray[np.float64]
    """Voxel -> mm (4, 4), RAS+."""
    sequence: Sequence
    """Weighting of `mr`."""
    lesions: tuple[Lesion, ...]
    """In the order asked for."""
    protocol: Protocol
    """Scanner settings and tissue parameters of this head."""


def synthesise_head(
    seed: int,
    *,
    shape: tuple[int, int, int] = (256, 256, 180),
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    sequence: Sequence = "t1",
    lesions: Many[str] = (),
    heights_mm: Many[float] | None = None,
) -> Head:
    """Make one head; the same seed gives the same anatomy and CT for either sequence.

    Args:
        seed: Of subject, protocol and noise; >= 0.
        shape: Voxels along I, J, K. The head lies in the middle of the plane, its top below the
            last plane.
        spacing_mm: Voxel size; the third is the slice thickness.
        sequence: MR weighting.
        lesions: Kinds from `LESIONS`, each placed at random in the brain; one may come twice.
        heights_mm: Render only these axial planes, in mm below the top of the head, the lowest
            plane (largest number) first. K is then their number, whatever `shape[2]` says, and
            the affine holds their mean distance.

    Raises:
        ValueError: If an argument is out of range.
    """
    _check(seed, shape, spacing_mm, sequence, lesions, heights_mm)
    subject, box = _place(_stream(seed, 0), lesions)
    protocol = draw_protocol(_stream(seed, 1), sequence)
    grid = _grid(_stream(seed, 2), box, shape, spacing_mm, heights_mm)
    scan = _Scan(seed, subject, protocol, grid, box, _bias(_stream(seed, 3), protocol, box))
    labels, ct, mr, mask = _render(scan)
    return Head(
        labels=labels.transpose(2, 1, 0),
        ct=ct.transpose(2, 1, 0),
        mr=mr.transpose(2, 1, 0),
        mask=mask.transpose(2, 1, 0),
        affine=grid.affine,
        sequence=sequence,
        lesions=subject.lesions,
        protocol=protocol,
    )


def _stream(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(key))


def _check(
    seed: int,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    sequence: str,
    lesions: Many[str],
    heights_mm: Many[float] | None,
) -> None:
    if seed < 0:
        raise ValueError(f"seed must be >= 0: got {seed}")
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape must be three positive numbers of voxels: got {shape!r}")
    if len(spacing_mm) != 3 or not min(spacing_mm) > 0:
        raise ValueError(f"spacing_mm must be three positive numbers: got {spacing_mm!r}")
    if sequence not in get_args(Sequence):
        raise ValueError(f"sequence must be 't1' or 't2': got {sequence!r}")
    for kind in lesions:
        if kind not in LESIONS:
            raise ValueError(f"unknown lesion {kind!r}: choose from {', '.join(LESIONS)}")
    if heights_mm is not None and (len(heights_mm) == 0 or np.any(np.diff(heights_mm) >= 0)):
        found = ", ".join(f"{h:g}" for h in heights_mm)
        raise ValueError(f"heights_mm must fall from the lowest plane to the highest: got {found}")


# -- where the head lies -----------------------------------------------------------------------


class _Box(NamedTuple):
    """Extent of the head in world mm."""

    low: Axis
    high: Axis
    top: float
    """Height of the highest point of the skin."""


class _Grid(NamedTuple):
    """Voxel centres in mm, and the thinner planes that each slice is the mean of."""

    x: Axis
    y: Axis
    z: Axis
    spacing_mm: tuple[float, float, float]
    offsets_mm: Axis
    affine: npt.NDArray[np.float64]


def _place(rng: np.random.Generator, kinds: Many[str]) -> tuple[Subject, _Box]:
    """A subject of the right brain volume with its lesions, and the box of its head."""
    subject = draw_subject(rng)
    lattice = enclosing_lattice(*SCOUT_BOX, SCOUT_MM)
    inside = np.clip(surfaces(subject, lattice).brain() / SCOUT_MM + 0.5, 0, 1)
    volume_ml = BRAIN_SHARE * float(inside.sum()) * SCOUT_MM**3 / 1000
    larger = (subject.brain_ml / volume_ml) ** (1 / 3)
    subject = replace(subject, stretch=subject.stretch * larger)
    scout = surfaces(subject, lattice)
    if kinds:
        found = place_lesions(rng, kinds, lattice.points(), scout.brain())
        subject = replace(subject, lesions=found)
    return subject, _box(scout.skin, lattice)


def _box(skin: Array, lattice: Lattice) -> _Box:
    inside = skin > -SCOUT_MM
    low, high = [], []
    for axis, others in zip(lattice[:3], ((0, 1), (0, 2), (1, 2)), strict=True):
        nodes = axis[np.flatnonzero(inside.any(axis=others))]
        low.append(nodes[0] - SCOUT_MM)
        high.append(nodes[-1] + SCOUT_MM)
    tallest = skin.max(axis=(1, 2))
    last = int(np.flatnonzero(tallest > 0)[-1])
    beyond = SCOUT_MM * tallest[last] / (tallest[last] - tallest[last + 1])
    return _Box(np.array(low), np.array(high), float(lattice.z[last] + beyond))


def _grid(
    rng: np.random.Generator,
    box: _Box,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    heights_mm: Many[float] | None,
) -> _Grid:
    """Voxel centres round the middle of the head, give or take a few mm."""
    middle = (box.low + box.high)[:2] / 2 + rng.normal(0, 3, 2).clip(-6, 6)
    x, y = (
        m + s * (np.arange(n) - (n - 1) / 2)
        for m, n, s in zip(middle, shape, spacing_mm, strict=False)
    )
    thickness = spacing_mm[2]
    if heights_mm is None:
        above = min(12.0, 0.06 * shape[2] * thickness)
        z = box.top + above - thickness * (np.arange(shape[2])[::-1] + 0.5)
    else:
        z = box.top - np.asarray(heights_mm, np.float64)
    affine = np.diag((*spacing_mm, 1.0))
    affine[2, 2] = np.diff(z).mean() if len(z) > 1 else thickness
    affine[:3, 3] = x[0], y[0], z[0]
    count = 2 * round(thickness / 4) + 1  # odd, so that one plane lies in the middle
    offsets = (np.arange(count) - count // 2) * thickness / count
    return _Grid(x, y, z, spacing_mm, offsets, affine)


def _bias(rng: np.random.Generator, protocol: Protocol, box: _Box) -> tuple[Array, Lattice]:
    """Bias field round the head: smooth, positive, about 1."""
    lattice = enclosing_lattice(box.low, box.high, BIAS_STEP_MM)
    field = wave_field(plane_waves(rng, (180, 360), 8), lattice)
    return np.exp(np.float32(protocol.bias) * field)[None], lattice


# -- one label map, two images -----------------------------------------------------------------


class _Scan(NamedTuple):
    """All that a plane is made from, but for the anatomy on its lattice."""

    seed: int
    subject: Subject
    protocol: Protocol
    grid: _Grid
    box: _Box
    bias: tuple[Array, Lattice]
    """Bias field (1, z, y, x) on a coarse lattice."""


_Images = tuple[npt.NDArray[np.uint8], Image, Image, npt.NDArray[np.bool_]]


def _render(scan: _Scan) -> _Images:
    """Labels, CT, MR and mask (K, J, I), plane by plane."""
    grid, box = scan.grid, scan.box
    full = (len(grid.z), len(grid.y), len(grid.x))
    labels, mask = np.zeros(full, np.uint8), np.zeros(full, bool)
    ct, mr = np.empty(full, np.float32), np.empty(full, np.float32)
    lowest, highest = grid.z[0] + grid.offsets_mm[0], grid.z[-1] + grid.offsets_mm[-1]
    lattice = enclosing_lattice(
        (box.low[0], box.low[1], min(lowest, box.high[2])),
        (box.high[0], box.high[1], min(highest, box.high[2])),
        STEP_MM,
    )
    by_name = coarse_fields(scan.subject, lattice)
    names = tuple(by_name)
    fields = np.stack([by_name[name].astype(np.float32, copy=False) for name in names])

    def plane(k: int) -> None:
        window, painted = _paint(scan, lattice, names, fields, float(grid.z[k]))
        hu = np.full(full[1:], scan.protocol.hu[0], np.float32)
        signal = np.zeros(full[1:], np.float32)
        if painted is not None:
            labels[k][window], hu[window], signal[window], mask[k][window] = painted
        ct[k] = ct_plane(hu, scan.protocol, grid.spacing_mm, _stream(scan.seed, 4, k))
        mr[k] = mr_plane(signal, scan.protocol, _stream(scan.seed, 5, k))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(plane, range(full[0])))
    return labels, ct, mr, mask


def _paint(
    scan: _Scan, lattice: Lattice, names: tuple[str, ...], fields: Array, height: float
) -> tuple[tuple[slice, slice], _Images | None]:
    """Labels, HU, MR signal and mask (J, I) of one slice within the window that holds the head."""
    grid, box = scan.grid, scan.box
    j, i = (
        slice(*np.searchsorted(a, (low, high)))
        for a, low, high in ((grid.y, box.low[1], box.high[1]), (grid.x, box.low[0], box.high[0]))
    )
    heights = height + grid.offsets_mm
    if heights[0] > box.high[2] or i.start == i.stop or j.start == j.stop:
        return (j, i), None
    x, y, z = grid.x[i], grid.y[j], heights[:, None, None]
    wz, wy, wx = (cubic_weights(a, n) for a, n in zip((heights, y, x), lattice[2::-1], strict=True))
    near = np.flatnonzero(wz.any(axis=0))
    rows = slice(near[0], near[-1] + 1)
    fine = dict(zip(names, upsample(fields[:, rows], wz[:, rows], wy, wx), strict=True))
    at = Points(*(a.astype(np.float32) for a in (x, y[:, None], z)))
    width_mm = (grid.spacing_mm[0] + grid.spacing_mm[1]) / 2
    painted = layers(scan.subject, fine, at, width_mm)
    labels, ct, mr = expose(painted, scan.protocol, fine["texture"], fine["texture_2"])
    field, coarse = scan.bias
    within = np.clip(heights[:1], box.low[2], box.high[2])
    axes = zip((within, y, x), coarse[2::-1], strict=True)
    mr *= upsample(field, *(cubic_weights(a, n) for a, n in axes))[0, 0]
    mask = fine["skin"][len(heights) // 2] > 0
    return (j, i), (labels, ct, mr, mask)
