"""True pairs of slices, rendered on the fly from anatomies: what a CT and an MR scanner see of the same plane."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from scipy import ndimage

from ctmr.synthetic.anatomies import CODE, Anatomy, Voxels, unpack
from ctmr.synthetic.contrasts import HU, Contrast, draw_contrast, draw_signals, target_signals
from ctmr.synthetic.planes import Plane, draw_plane, smooth
from ctmr.synthetic.shapes import Array
from ctmr.system.rng import stream

Image = npt.NDArray[np.float32]
LESION_SHARE = 0.25
LESION_KINDS = ("bleed", "infarct", "tumour", "calcification")
BRAIN_CODES = [
    CODE[n] for n in ("grey matter", "white matter", "deep grey", "brain stem", "csf", "ventricle")
]
_TARGET = target_signals()
TARGET_BLUR_MM = 0.7
_BONES = (CODE["cortical bone"], CODE["diploe"])


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
    anatomies: Sequence[Anatomy], shape: tuple[int, int], seed: int, number: int
) -> Pair:
    """Sample `number` of the stream of a seed, whatever came before it.

    Args:
        anatomies: Heads to choose from.
        shape: Rows and columns, about 1 mm each.
        seed: Of the stream.
        number: Of the sample, >= 0.
    """
    rng = stream(seed, "pair", number)
    anatomy = anatomies[int(rng.integers(len(anatomies)))]
    plane = draw_plane(rng, anatomy, shape)
    tissue, bone = _tissues(rng, unpack(plane.sample(anatomy.packed)), plane)
    contrast = draw_contrast(rng)
    signals = draw_signals(rng, contrast)
    signals[CODE["cortical bone"]] = max(signals[CODE["cortical bone"]], rng.uniform(0, 0.15))
    hu = _draw_hu(rng)
    shown_in_ct, shown_in_mr = tissue, tissue
    if rng.uniform() < LESION_SHARE:
        with_lesion, code = _with_lesion(rng, tissue, plane)
        around = float(np.median(signals[tissue[with_lesion != tissue]])) if code else 0.0
        if code and abs(float(signals[code]) - around) > 0.12:
            shown_in_ct = with_lesion  # the MR shows it, so its CT should
        if code and abs(float(hu[code]) - 34) > 7:
            shown_in_mr = with_lesion
        tissue = with_lesion
    _remove(rng, (tissue, shown_in_ct, shown_in_mr), plane)
    heights = _bone_hu(rng, shape)
    true_ct = blurred(
        _with_bone(HU[shown_in_ct], shown_in_ct, heights[0]), TARGET_BLUR_MM / plane.pixel_mm
    )
    ct = blurred(_with_bone(hu[tissue], tissue, heights[1]), rng.uniform(0.4, 0.9) / plane.pixel_mm)
    head = _filled((tissue > 0).mean(axis=0) > 0.5)
    return Pair(
        ct=_ct_scanner(rng, ct, head),
        mr=_mr_scanner(rng, signals[tissue].mean(axis=0), plane),
        true_ct=true_ct,
        true_mr=blurred(_TARGET[shown_in_mr].mean(axis=0)[None], 0.5 / plane.pixel_mm),
        head=head,
        contrast=contrast,
        pixel_mm=plane.pixel_mm,
    )


def blurred(layers: Array, sigma: float) -> Image:
    """The mean of layers (N, H, W), blurred by a Gaussian of `sigma` pixels."""
    return np.asarray(ndimage.gaussian_filter(layers.mean(axis=0), sigma, truncate=3), np.float32)


# -- anatomy -----------------------------------------------------------------------------------


def _tissues(
    rng: np.random.Generator, at: Voxels, plane: Plane
) -> tuple[npt.NDArray[np.uint8], Array]:
    """Tissue of each sampled voxel, with skin, fat, muscle and bone of this person; and the depth in bone in mm."""
    shape = at.tissue.shape[1:]
    tissue, zoom = at.tissue, plane.zoom
    # The surface of the head moves in or out, and with it the thickness of the scalp.
    skin = at.skin * zoom - (rng.uniform(0.5, 3.5) + 0.5 * smooth(rng, shape, 6))
    bone = at.bone * zoom + rng.normal(-0.4, 0.4) + 0.35 * smooth(rng, shape, 8)
    fat_mm = rng.uniform(3.5, 9) + 1.2 * smooth(rng, shape, 10)
    lumps, cells = smooth(rng, shape, 14), smooth(rng, shape, 50)
    was_bone = np.isin(tissue, _BONES)
    soft, orbital = tissue == CODE["soft tissue"], tissue == CODE["orbital tissue"]

    # Fat below the skin and in lumps deeper; a thin dense layer on the bone; muscle.
    galea = bone > -rng.uniform(0.4, 1.6)
    deep_fat = (lumps > rng.uniform(0.6, 1.6)) & (skin > 12)
    tissue[soft] = CODE["muscle"]
    tissue[soft & ((skin < fat_mm) | deep_fat) & ~galea] = CODE["fat"]
    tissue[orbital] = CODE["fat"]
    tissue[orbital & (skin < rng.uniform(2, 5))] = CODE["muscle"]
    tissue[(tissue == CODE["air"]) & (skin > 3)] = CODE["sinus air"]
    # Cells of the ethmoid: part of what the map calls mucosa is air.
    airy = (tissue == CODE["mucosa"]) & (cells > rng.uniform(-0.8, 1.5)) & (skin > 12)
    tissue[airy] = CODE["sinus air"]

    # Bone grows into the scalp or shrinks from both sides.
    lost = was_bone & (bone < 0)
    tissue[lost] = np.where(at.cavity[lost] > -3, CODE["dura"], CODE["muscle"])
    grown = ~was_bone & (bone > 0) & (soft | (tissue == CODE["dura"]))
    tissue[grown] = CODE["cortical bone"]
    is_bone = (was_bone & ~lost) | grown
    if rng.uniform() < 0.5:  # tables of one thickness with diploe between, in the vault only
        table = rng.uniform(1.1, 2.3) + 0.2 * smooth(rng, shape, 10)
        vault = is_bone & (at.cavity > -14) & (at.cavity < 2)
        tissue[vault] = np.where(bone[vault] < np.broadcast_to(table, bone.shape)[vault], *_BONES)
    tissue[is_bone & (bone < 0.7)] = CODE["cortical bone"]

    outside = (skin < 0) & ~is_bone
    tissue[outside] = CODE["air"]
    rim = (skin >= 0) & (skin < rng.uniform(1.2, 2.6)) & ~is_bone
    tissue[rim & (tissue != CODE["sinus air"])] = CODE["skin"]
    return tissue, bone


def _bone_hu(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array]:
    """HU of cortical bone and diploe (2, 1, H, W): the expected ones, and those of this person."""
    expected = np.array([1550.0, 800.0], np.float32)
    own = expected * np.exp(rng.normal(0, (0.12, 0.2))) * (1 + 0.12 * rng.normal())
    varied = 1 + 0.12 * smooth(rng, shape, 40) + 0.08 * smooth(rng, shape, 12)
    flat = np.ones((2, 1, *shape), np.float32)
    return flat * expected[:, None, None, None], flat * own[:, None, None, None] * varied


def _with_bone(hu: Array, tissue: npt.NDArray[np.uint8], heights: Array) -> Array:
    """HU (N, H, W) with those of bone put in."""
    for code, height in zip(_BONES, heights, strict=True):
        here = tissue == code
        hu[here] = np.broadcast_to(height, hu.shape)[here]
    return hu


def _draw_hu(rng: np.random.Generator) -> Array:
    spread = np.where(HU < -900, 0, np.maximum(1.5, 0.05 * np.abs(HU)))
    return (HU + spread * rng.normal(size=len(HU))).astype(np.float32)


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


def _remove(
    rng: np.random.Generator, tissues: Sequence[npt.NDArray[np.uint8]], plane: Plane
) -> None:
    """Sometimes take away the skull or the face from source and target alike."""
    draw = rng.uniform()
    removed: npt.NDArray[np.bool_] | None = None
    if draw < 0.04:
        brain = np.isin(
            tissues[0],
            [
                *BRAIN_CODES,
                *(CODE[kind] for kind in LESION_KINDS),
                CODE["oedema"],
                CODE["choroid plexus"],
                CODE["spinal cord"],
            ],
        )
        kept = np.stack([_filled(ndimage.binary_opening(layer, iterations=1)) for layer in brain])
        removed = ~kept
    elif draw < 0.10:
        shape = tissues[0].shape[1:]
        y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
        y, x = y / shape[0] - 0.5, x / shape[1] - 0.5
        removed = np.broadcast_to(
            y + rng.normal(0, 0.2) * x < -rng.uniform(0.18, 0.34), tissues[0].shape
        )
    if removed is not None:
        for tissue in tissues:
            tissue[removed] = CODE["air"]


def _filled(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    filled: npt.NDArray[np.bool_] = ndimage.binary_fill_holes(mask)
    return filled


# -- scanners ----------------------------------------------------------------------------------


def _ct_scanner(rng: np.random.Generator, ct: Image, head: npt.NDArray[np.bool_]) -> Image:
    """Kernel, noise, cupping, table and dental metal."""
    shape = ct.shape
    if rng.uniform() < 0.4:
        ct = ct + np.float32(rng.uniform(0, 0.6)) * (ct - ndimage.gaussian_filter(ct, 1.2))
    ct = ct + np.where(head, np.float32(rng.uniform(0, 8)) * smooth(rng, shape, 5)[0], 0)
    noise = rng.standard_normal(shape, np.float32)
    noise = ndimage.gaussian_filter(noise, rng.uniform(0, 1.2), truncate=3)
    ct += np.float32(rng.uniform(1, 14) / max(float(noise.std()), 1e-3)) * noise
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    if rng.uniform() < 0.5:
        rows = np.flatnonzero(head.any(axis=1))
        below = float(rows[-1]) if len(rows) else shape[0] / 2
        bow = rng.uniform(0, 0.006) * (x - shape[1] / 2 - rng.normal(0, 10)) ** 2
        depth = y - (below + rng.uniform(-14, 12)) + bow
        wall = (
            (abs(depth) < rng.uniform(0.6, 2.5))
            & ~head
            & (abs(x - shape[1] / 2) < rng.uniform(0.2, 0.5) * shape[1])
        )
        ct[wall] = rng.uniform(-800, 200)
        if rng.uniform() < 0.5:
            ct[
                (depth > 2)
                & (depth < rng.uniform(6, 30))
                & ~head
                & (abs(x - shape[1] / 2) < 0.4 * shape[1])
            ] += rng.uniform(5, 120)
    if rng.uniform() < 0.04:
        ct = _metal(rng, ct, head, x, y)
    clipped: Image = np.clip(ct, -1024, 3071).astype(np.float32)
    return clipped


def _metal(
    rng: np.random.Generator, ct: Image, head: npt.NDArray[np.bool_], x: Array, y: Array
) -> Image:
    rows, columns = np.nonzero(head)
    if not len(rows):
        return ct
    place = int(rng.integers(len(rows)))
    dx, dy = x - columns[place], y - rows[place]
    away = np.sqrt(dx * dx + dy * dy) + 1
    rays = np.interp(np.arctan2(dy, dx), np.linspace(-np.pi, np.pi, 60), rng.normal(0, 1, 60))
    ct = ct + np.where(head, 1500 * rays / away, 0)
    ct[away < rng.uniform(2, 6)] = 3071
    return ct


def _mr_scanner(rng: np.random.Generator, mr: Array, plane: Plane) -> Image:
    """Texture, coil, resolution, motion, wrap-around, noise and gamma."""
    shape = mr.shape
    out = mr * (
        1
        + rng.uniform(0, 0.06) * smooth(rng, shape, 60)[0]
        + rng.uniform(0, 0.06) * smooth(rng, shape, 24)[0]
    )
    out = ndimage.gaussian_filter(out, rng.uniform(0.3, 0.8) / plane.pixel_mm, truncate=3)
    if rng.uniform() < 0.3:
        out = _coarse(out, (rng.uniform(1, 2.4), rng.uniform(1, 2.4)))
    out = out * np.exp(rng.uniform(0, 0.35) * smooth(rng, shape, 4)[0])
    if rng.uniform() < 0.12:  # ghosts of a head that moved
        ghosts = [np.roll(out, int(shift), axis=0) for shift in rng.integers(-40, 40, 3)]
        out = out + rng.uniform(0.01, 0.06) * sum(ghosts[1:], ghosts[0])
    if rng.uniform() < 0.04:
        out = out + np.roll(out, shape[0] // 2, axis=int(rng.integers(2))) * rng.uniform(0, 0.3)
    sigma = rng.uniform(0.005, 0.06)
    real, imaginary = sigma * rng.standard_normal((2, *shape), np.float32)
    out = np.sqrt((out + real) ** 2 + imaginary**2)
    if rng.uniform() < 0.25:
        out[out < rng.uniform(0.02, 0.1)] = 0  # air set to zero by software
    top = max(float(out.max()), 1e-3)
    shaped: Image = (top * (out / top) ** np.exp(rng.normal(0, 0.12))).astype(np.float32)
    return shaped


def _coarse(image: Array, steps: tuple[float, float]) -> Array:
    rows, columns = (max(8, round(n / s)) for n, s in zip(image.shape, steps, strict=True))
    small = Pillow.fromarray(image.astype(np.float32)).resize(
        (columns, rows), Pillow.Resampling.BOX
    )
    return np.asarray(small.resize(image.shape[::-1], Pillow.Resampling.BICUBIC))
