"""True pairs of slices, rendered on the fly from anatomies: what a CT and an MR scanner see of the same plane."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from ctmr.synthetic.anatomies import CODE, Anatomy, unpack
from ctmr.synthetic.artefacts import Image, ct_scanner, mr_scanner
from ctmr.synthetic.contrasts import HU, Contrast, draw_contrast, draw_signals, target_signals
from ctmr.synthetic.persons import bone_hu, draw_hu, person_tissues, with_bone
from ctmr.synthetic.planes import Plane, draw_plane, smooth
from ctmr.synthetic.shapes import Array
from ctmr.system.rng import stream

LESION_SHARE, STRIPPED_SHARE, DEFACED_SHARE = 0.25, 0.04, 0.06
"""Of the pairs: with a lesion, without skull, without face."""
SHOWN_MR, SHOWN_HU, BRAIN_HU = 0.12, 7.0, 34.0
"""A lesion is shown where its MR differs by so much of white matter from what it replaces, its HU from those of brain."""
LESION_KINDS = ("bleed", "infarct", "tumour", "calcification")
BRAIN_CODES = [
    CODE[n] for n in ("grey matter", "white matter", "deep grey", "brain stem", "csf", "ventricle")
]
_TARGET = target_signals()
TARGET_BLUR_MM = 0.7


@dataclass(frozen=True, eq=False)
class Pair:
    """One slice in both modalities, front at the top, the patient's right at the left; all (H, W).

    Attributes:
        ct: What the CT scanner made of it, in HU: input of CT -> MR.
        mr: What the MR scanner made of it, white matter about 1: input of MR -> CT.
        true_ct: CT without noise, texture or table: target of MR -> CT.
        true_mr: T1-weighted MR of one scanner, without noise: target of CT -> MR.
        head: Where the head is.
        contrast: Of `mr`.
        pixel_mm: Pixel size.
    """

    ct: Image
    mr: Image
    true_ct: Image
    true_mr: Image
    head: npt.NDArray[np.bool_]
    contrast: Contrast
    pixel_mm: float


def render_pair(
    anatomies: Sequence[Anatomy],
    shape: tuple[int, int],
    seed: int,
    number: int,
    *,
    pixel_mm: float = 1.0,
) -> Pair:
    """Sample `number` of the stream of a seed, whatever came before it.

    Args:
        anatomies: Heads to choose from.
        shape: Rows and columns.
        seed: Of the stream.
        number: Of the sample, >= 0.
        pixel_mm: Pixel size, from which that of a sample differs by up to a tenth.
    """
    rng = stream(seed, "pair", number)
    anatomy = anatomies[int(rng.integers(len(anatomies)))]
    plane = draw_plane(rng, anatomy, shape, pixel_mm)
    tissue = person_tissues(rng, unpack(plane.sample(anatomy.packed)), plane)
    contrast = draw_contrast(rng)
    signals = draw_signals(rng, contrast)
    signals[CODE["cortical bone"]] = max(signals[CODE["cortical bone"]], rng.uniform(0, 0.15))
    hu = draw_hu(rng)
    shown_in_ct, shown_in_mr = tissue, tissue
    if rng.uniform() < LESION_SHARE:
        with_lesion, code = _with_lesion(rng, tissue, plane)
        replaced = tissue[with_lesion != tissue]
        if replaced.size > 0:
            around = float(np.median(signals[replaced]))
            if abs(float(signals[code]) - around) > SHOWN_MR:
                shown_in_ct = with_lesion  # the MR shows it, so its CT should
            if abs(float(hu[code]) - BRAIN_HU) > SHOWN_HU:
                shown_in_mr = with_lesion
        tissue = with_lesion
    _remove(rng, (tissue, shown_in_ct, shown_in_mr))
    heights = bone_hu(rng, shape)
    true_ct = blurred(
        with_bone(HU[shown_in_ct], shown_in_ct, heights[0]), TARGET_BLUR_MM / plane.pixel_mm
    )
    ct = blurred(with_bone(hu[tissue], tissue, heights[1]), rng.uniform(0.4, 0.9) / plane.pixel_mm)
    head = _filled((tissue > 0).mean(axis=0) > 0.5)
    return Pair(
        ct=ct_scanner(rng, ct, head),
        mr=mr_scanner(rng, signals[tissue].mean(axis=0), plane.pixel_mm, head),
        true_ct=true_ct,
        true_mr=blurred(_TARGET[shown_in_mr].mean(axis=0)[None], 0.5 / plane.pixel_mm),
        head=head,
        contrast=contrast,
        pixel_mm=plane.pixel_mm,
    )


def blurred(layers: Array, sigma: float) -> Image:
    """The mean of layers (N, H, W), blurred by a Gaussian of `sigma` pixels."""
    return np.asarray(
        scipy.ndimage.gaussian_filter(layers.mean(axis=0), sigma, truncate=3), np.float32
    )


# -- lesions, and what was removed -------------------------------------------------------------


def _with_lesion(
    rng: np.random.Generator, tissue: npt.NDArray[np.uint8], plane: Plane
) -> tuple[npt.NDArray[np.uint8], int]:
    """The tissues with one lesion in the brain, and its code; 0 where the plane shows too little brain."""
    middle = np.isin(tissue[len(tissue) // 2], BRAIN_CODES[:4])
    rows, columns = np.nonzero(middle)
    if len(rows) < 400:
        return tissue, 0
    place = int(rng.integers(len(rows)))
    kind = LESION_KINDS[int(rng.integers(len(LESION_KINDS)))]
    radius = rng.uniform(1.5, 4) if kind == "calcification" else np.exp(rng.uniform(1.4, 3.1))
    shape = tissue.shape[1:]
    y, x = (
        np.mgrid[: shape[0], : shape[1]].astype(np.float32)
        - np.array([rows[place], columns[place]])[:, None, None]
    ) * plane.pixel_mm
    turn, squeeze = rng.uniform(0, np.pi), np.exp(rng.normal(0, 0.25))
    u, v = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    away = np.sqrt((u * squeeze) ** 2 + (v / squeeze) ** 2 + plane.offsets_mm[:, None, None] ** 2)
    away = away + 0.15 * radius * smooth(rng, shape, 24)
    out, brain = tissue.copy(), np.isin(tissue, BRAIN_CODES)
    if kind == "tumour":
        out[brain & (away < radius * rng.uniform(1.2, 1.9)) & (tissue != CODE["csf"])] = CODE[
            "oedema"
        ]
    out[brain & (away < radius)] = CODE[kind]
    return out, CODE[kind]


def _remove(rng: np.random.Generator, tissues: Sequence[npt.NDArray[np.uint8]]) -> None:
    """Sometimes take away the skull or the face from source and target alike."""
    draw = rng.uniform()
    removed: npt.NDArray[np.bool_] | None = None
    if draw < STRIPPED_SHARE:
        beside = (*LESION_KINDS, "oedema", "choroid plexus", "spinal cord")
        brain = np.isin(tissues[0], [*BRAIN_CODES, *(CODE[name] for name in beside)])
        kept = np.stack(
            [_filled(scipy.ndimage.binary_opening(layer, iterations=1)) for layer in brain]
        )
        removed = ~kept
    elif draw < STRIPPED_SHARE + DEFACED_SHARE:
        shape = tissues[0].shape[1:]
        y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
        y, x = y / shape[0] - 0.5, x / shape[1] - 0.5
        front = y + rng.normal(0, 0.2) * x < -rng.uniform(0.15, 0.34)
        if draw > STRIPPED_SHARE + DEFACED_SHARE / 2:  # a box
            front = (y < -rng.uniform(0.15, 0.34)) & (np.abs(x) < rng.uniform(0.2, 0.4))
        removed = np.broadcast_to(front, tissues[0].shape)
    if removed is not None:
        for tissue in tissues:
            tissue[removed] = CODE["air"]


def _filled(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    filled: npt.NDArray[np.bool_] = scipy.ndimage.binary_fill_holes(mask)
    return filled
