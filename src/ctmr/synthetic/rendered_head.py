"""A whole head from a label map, seen by the scanners of the synthetic heads."""

from collections.abc import Sequence as Many

import numpy as np
import numpy.typing as npt
import scipy

from ctmr.synthetic.anatomies import (
    CODE,
    MARGIN_VOXELS,
    TISSUE_NAMES,
    Anatomy,
    Voxels,
    largest_part,
    unpack,
)
from ctmr.synthetic.head import Head
from ctmr.synthetic.persons import person_tissues
from ctmr.synthetic.planes import Cut, draw_plane
from ctmr.synthetic.scanner import Protocol, Sequence, ct_plane, draw_protocol, mr_plane
from ctmr.synthetic.tissues import LABELS
from ctmr.system.rng import stream

# Tissues of the maps that the scanners of the synthetic heads do not know.
_NEAREST = {"mucosa": "muscle", "tendon": "muscle"}
_NEAREST |= {"spinal cord": "brain stem", "choroid plexus": "grey matter"}
_LABEL = np.array(
    [
        LABELS.index(_NEAREST.get(name, name)) if _NEAREST.get(name, name) in LABELS else 0
        for name in TISSUE_NAMES
    ],
    np.uint8,
)
FACE_FRONT_MM, FACE_TOP_MM, FACE_DEPTH_MM = 30.0, 45.0, 8.0
"""The face: this far in front of the middle, up to so much above the brain's lowest plane, so deep below no cavity."""


def rendered_head(
    anatomy: Anatomy,
    seed: int,
    *,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    sequence: Sequence = "t1",
    heights_mm: Many[float] | None = None,
) -> Head:
    """One person with the anatomy of a label map in both modalities, without face or lesions.

    Args:
        anatomy: Its map.
        seed: Of person, protocol and noise.
        shape: Voxels along I, J, K; see `synthesise_head`.
        spacing_mm: Voxel size; the third is the slice thickness.
        sequence: MR weighting.
        heights_mm: Only these planes, in mm below the top of the head, the lowest first.
    """
    packed = without_face(anatomy)
    top_mm = anatomy.packed.shape[2] - 2 * MARGIN_VOXELS - sum(anatomy.brain) / 2
    heights = (
        spacing_mm[2] * (np.arange(shape[2])[::-1] - 2.0)
        if heights_mm is None
        else np.asarray(heights_mm, float)
    )
    protocol = draw_protocol(stream(seed, "protocol"), sequence)
    images: list[list[npt.NDArray[np.generic]]] = []
    for k, height in enumerate(heights):
        cut = Cut(top_mm - height, (spacing_mm[0] + spacing_mm[1]) / 2, spacing_mm[2])
        rng = stream(seed, "person")  # the same person in each plane
        plane = draw_plane(rng, anatomy, (shape[1], shape[0]), cut=cut)
        tissue = _LABEL[person_tissues(rng, unpack(plane.sample(packed)), plane)]
        images.append(_scanned(tissue, protocol, spacing_mm, (seed, k)))
    labels, ct, mr, mask = (
        np.stack([row[n][::-1, ::-1].T for row in images], axis=-1) for n in range(4)
    )
    affine = np.diag((*spacing_mm, 1.0))
    if len(heights) > 1:
        affine[2, 2] = -float(np.diff(heights).mean())
    affine[:3, 3] = (
        -spacing_mm[0] * (shape[0] - 1) / 2,
        -spacing_mm[1] * (shape[1] - 1) / 2,
        top_mm - heights[0],
    )
    return Head(
        labels=labels.astype(np.uint8),
        ct=ct.astype(np.float32),
        mr=mr.astype(np.float32),
        mask=mask.astype(bool),
        affine=affine,
        sequence=sequence,
        lesions=(),
        protocol=protocol,
    )


def _scanned(
    tissue: npt.NDArray[np.uint8],
    protocol: Protocol,
    spacing_mm: tuple[float, float, float],
    key: tuple[int, int],
) -> list[npt.NDArray[np.generic]]:
    """Labels, HU, MR and mask (H, W) of one plane from the samples of its voxels (N, H, W)."""
    hu = protocol.hu[tissue].mean(axis=0)
    signal = scipy.ndimage.gaussian_filter(protocol.signal()[tissue].mean(axis=0), 0.35, truncate=3)
    ct = ct_plane(hu.astype(np.float32), protocol, spacing_mm, stream(*key, "ct"))
    mr = mr_plane(signal.astype(np.float32), protocol, stream(*key, "mr"))
    mask = scipy.ndimage.binary_fill_holes((tissue > 0).mean(axis=0) > 0.5)
    return [tissue[len(tissue) // 2], ct, mr, mask]


def without_face(anatomy: Anatomy) -> npt.NDArray[np.uint32]:
    """The packed voxels with air where the face is: in front, below the brow, outside the skull."""
    packed = anatomy.packed.copy()
    at: Voxels = unpack(packed)
    j, k = np.ogrid[: packed.shape[1], : packed.shape[2]]
    front = j - packed.shape[1] / 2 > FACE_FRONT_MM
    face = (front & (k < anatomy.brain[0] + FACE_TOP_MM))[None] & (at.cavity < -FACE_DEPTH_MM)
    parts = packed[..., None].view(np.uint8)
    parts[face] = (CODE["air"], 0, 0, 0)
    parts[~largest_part(parts[..., 0] > 0)] = (CODE["air"], 0, 0, 0)  # what hangs in the air now
    return packed
