"""From depth fields to tissues: the order of painting, the labels, the share of each voxel."""

from collections.abc import Iterator

import numpy as np

from ctmr.synthetic.anatomy import Subject
from ctmr.synthetic.lesions import LESIONS, lesion_depths
from ctmr.synthetic.shapes import Array, Points, common, union

LABELS = (
    "air",
    "skin",
    "fat",
    "muscle",
    "cortical bone",
    "diploe",
    "sinus air",
    "eye",
    "lens",
    "dura",
    "csf",
    "grey matter",
    "white matter",
    "deep grey",
    "brain stem",
    "ventricle",
    "blood vessel",
    "bleed",
    "infarct",
    "tumour",
    "oedema",
    "calcification",
)
"""Name of each value of a label map."""
BRAIN = (
    "grey matter",
    "white matter",
    "deep grey",
    "brain stem",
    "ventricle",
    "oedema",
    *LESIONS,
)
"""Labels that count as brain volume."""


def layers(
    subject: Subject, fields: dict[str, Array], at: Points, width_mm: float
) -> Iterator[tuple[int, Array]]:
    """The tissues from the outside in, each with the share of every voxel that it covers.

    Args:
        subject: The head.
        fields: The fields of `coarse_fields`, upsampled to the voxels.
        at: World coordinates of the voxels in mm.
        width_mm: Voxel size over which a boundary is spread.

    Yields:
        Index into `LABELS`, and the share in [0, 1]; later layers cover earlier ones.
    """
    for name, depth in _depths(subject, fields, at):
        if depth.max() > -width_mm / 2:
            share = np.clip(depth * np.float32(1 / width_mm) + np.float32(0.5), 0, 1)
            yield LABELS.index(name), share


def _depths(s: Subject, f: dict[str, Array], at: Points) -> Iterator[tuple[str, Array]]:
    bone = np.maximum(np.minimum(-f["cavity"], f["skull_mm"] + f["cavity"]), f["bones"])
    yield "skin", f["skin"]
    yield "fat", f["skin"] - 2
    yield "muscle", f["muscle"]
    yield "fat", f["orbit"]
    yield "muscle", f["strings"]
    yield "eye", f["eye"]
    yield "lens", f["lens"]
    yield "cortical bone", bone
    yield "diploe", bone - s.table_mm
    yield "sinus air", f["air"]
    yield "dura", f["cavity"]
    yield "csf", f["cavity"] - 0.6
    yield "dura", common(0.55 - np.abs(f["midline"]), f["cavity"], -8 - f["cerebellum"])  # falx
    yield "blood vessel", f["vein"]
    yield from _cerebrum(s, f)
    yield from _cerebellum(f)
    yield "brain stem", f["stem"]
    yield "deep grey", f["deep grey"]
    yield "ventricle", f["ventricle"]
    for lesion in s.lesions:
        yield from lesion_depths(lesion, f, at)


def _cerebrum(s: Subject, f: dict[str, Array]) -> Iterator[tuple[str, Array]]:
    """Cortical ribbon: within `cortex_mm` of the envelope, of a sulcal sheet or of the insula."""
    envelope = f["envelope"]
    aside = np.abs(f["fold"]) - s.sulcus_mm - 0.05 * np.maximum(10 - envelope, 0)
    below = envelope - f["fold_mm"]
    beyond = np.sqrt(np.maximum(aside, 0) ** 2 + np.maximum(below, 0) ** 2)
    pial = common(envelope, beyond + np.minimum(np.maximum(aside, below), 0), -f["cleft"])
    yield "grey matter", pial
    yield "white matter", union(pial - s.cortex_mm, f["callosum"])


def _cerebellum(f: dict[str, Array]) -> Iterator[tuple[str, Array]]:
    """Leaves 4.4 mm apart, grey on white."""
    lobe = f["cerebellum"]
    leaf = np.abs(np.mod(f["leaf"], np.float32(4.4)) - np.float32(2.2))
    yield "csf", lobe + 1.5
    yield "grey matter", np.minimum(lobe, np.maximum(leaf - 0.25, lobe - 5))
    yield "white matter", np.minimum(lobe - 3, np.maximum(leaf - 1.5, lobe - 11))
