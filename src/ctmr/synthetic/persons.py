"""What makes one person's tissues differ from the map of an anatomy: skin, fat, muscle, bone, air cells."""

import numpy as np
import numpy.typing as npt

from ctmr.synthetic.anatomies import CODE, Voxels
from ctmr.synthetic.contrasts import HU
from ctmr.synthetic.planes import Plane, smooth
from ctmr.synthetic.shapes import Array

_INNER_MM, _INNER_BONE_MM = 3.0, 0.5  # this near to the cavity bone is thicker by so much
_CORTEX = (CODE["grey matter"], CODE["white matter"])
_BONES = (CODE["cortical bone"], CODE["diploe"])


def person_tissues(rng: np.random.Generator, at: Voxels, plane: Plane) -> npt.NDArray[np.uint8]:
    """Tissue of each sampled voxel (N, H, W), with skin, fat, muscle and bone of this person; changes `at.tissue`."""
    shape = at.tissue.shape[1:]
    tissue, zoom = at.tissue, plane.zoom
    # The surface of the head moves in or out, and with it the thickness of the scalp.
    skin = at.skin * zoom - (rng.uniform(0, 2.5) + 0.5 * smooth(rng, shape, 6))
    bone = at.bone * zoom + rng.normal(-0.9, 0.5) + 0.35 * smooth(rng, shape, 8)
    bone += np.where(at.cavity > -_INNER_MM, np.float32(_INNER_BONE_MM), np.float32(0))
    fat_mm = rng.uniform(3.5, 9) + 1.2 * smooth(rng, shape, 10)
    lumps, cells = smooth(rng, shape, 14), smooth(rng, shape, 50)
    was_bone = np.isin(tissue, _BONES)
    soft, orbital = tissue == CODE["soft tissue"], tissue == CODE["orbital tissue"]

    # Fat below the skin and in lumps deeper; galea and periosteum, dark in MR, on the bone; muscle.
    galea_mm = rng.uniform(0.4, 2)
    galea, fibrous = bone > -galea_mm, bone > -galea_mm * rng.uniform(0.2, 1)
    deep_fat = (lumps > rng.uniform(0.6, 1.6)) & (skin > 12)
    tissue[soft] = CODE["muscle"]
    tissue[soft & ((skin < fat_mm) | deep_fat) & ~galea] = CODE["fat"]
    tissue[soft & fibrous] = CODE["tendon"]
    tissue[orbital] = CODE["fat"]
    tissue[orbital & (skin < rng.uniform(2, 5))] = CODE["muscle"]
    tissue[(tissue == CODE["air"]) & (skin > 3)] = CODE["sinus air"]
    # Cells of the ethmoid: part of what the map calls mucosa is air.
    airy = (tissue == CODE["mucosa"]) & (cells > rng.uniform(-1.2, 1.2)) & (skin > 12)
    tissue[airy] = CODE["sinus air"]

    # Brain shrinks from its surface in places, or fills its cavity.
    fluid = rng.uniform()
    if fluid < 0.25:
        shrunk = at.cavity < rng.uniform(1, 9) * (smooth(rng, shape, 9) - rng.uniform(0, 1))
        tissue[shrunk & np.isin(tissue, _CORTEX)] = CODE["csf"]
    elif fluid < 0.75:
        near = at.cavity < rng.uniform(2, 5)
        tissue[near & (tissue == CODE["csf"])] = CODE["grey matter"]

    # Bone grows into the scalp or shrinks from both sides.
    lost = was_bone & (bone < 0)
    outer = np.where(fibrous[lost], CODE["tendon"], CODE["muscle"])
    tissue[lost] = np.where(at.cavity[lost] > -3, CODE["dura"], outer)
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
    tissue[rim & (skin < rng.uniform(0, 0.9))] = CODE["tendon"]  # the horny layer
    return tissue


def bone_hu(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array]:
    """HU of cortical bone and diploe (2, 1, H, W): the expected ones, and those of this person."""
    expected = np.array([1550.0, 800.0], np.float32)
    own = expected * np.exp(rng.normal(0, (0.12, 0.2))) * (1 + 0.12 * rng.normal())
    varied = 1 + 0.12 * smooth(rng, shape, 40) + 0.08 * smooth(rng, shape, 12)
    flat = np.ones((2, 1, *shape), np.float32)
    return flat * expected[:, None, None, None], flat * own[:, None, None, None] * varied


def with_bone(hu: Array, tissue: npt.NDArray[np.uint8], heights: Array) -> Array:
    """HU (N, H, W) with those of bone put in."""
    for code, height in zip(_BONES, heights, strict=True):
        here = tissue == code
        hu[here] = np.broadcast_to(height, hu.shape)[here]
    return hu


def draw_hu(rng: np.random.Generator) -> Array:
    """HU of each tissue (tissues,) of this person on this scanner; bone has `bone_hu`."""
    spread = np.where(HU < -900, 0, np.maximum(1.5, 0.05 * np.abs(HU)))
    return (HU + spread * rng.normal(size=len(HU))).astype(np.float32)
