"""Is a volume a CT or an MR: what its header says, and what its values say."""

from dataclasses import replace

import numpy as np

from ctmr.errors import SafetyError
from ctmr.imaging.appearance import log_odds
from ctmr.imaging.ct_values import (
    AIR_BELOW_HU,
    advice,
    air_share,
    looks_cut_out,
    looks_like_hu,
    looks_like_offset_hu,
)
from ctmr.imaging.descriptors import describe, outlined, shrunk, square_slice
from ctmr.imaging.head import find_head
from ctmr.imaging.volume import Volume, canonical
from ctmr.types import NAMES, Modality

DEPTHS_MM = (30.0, 45.0, 60.0, 75.0, 90.0)  # below the top of the head: brain, not face
MIN_SLICES = 3  # of these that must show a head
# Log-odds that a slice is MR, at most so high in the median and in each for a CT: well below 0, as an MR must not be refused.
MAX_MEDIAN_ODDS, MAX_ODDS = -1.5, -1.0
MIN_SPREAD = 0.005  # of the grey values inside a head: 10 HU of a window of 2000; one that is flat says nothing
ANYWAY = "give --anyway if it is one"


def as_modality(volume: Volume, modality: Modality, *, anyway: bool = False) -> Volume:
    """The volume as the modality it is taken for.

    Args:
        volume: The values of a CT are not looked at where a user vouched for them (`Volume.unit`).
        modality: What it is taken for.
        anyway: Take it for that whatever it looks like.

    Raises:
        SafetyError: If its header says another, or its values are those of another.
    """
    if anyway:
        return replace(volume, modality=modality)
    if volume.modality not in (None, modality):
        raise SafetyError(
            f"expected {NAMES[modality]}: the header says {NAMES[volume.modality]}",
            fix=f"use it as {NAMES[volume.modality]}, or name another scan",
        )
    if modality == "ct" and volume.unit is None and not looks_like_hu(volume.array):
        looks, fix = advice(volume.array)
        what = f"expected CT in HU, with air near -1000 and bone above 200: found what {looks}"
        raise SafetyError(what, fix=fix)
    if modality == "mr":
        _require_mr(volume)
    return replace(volume, modality=modality)


def _require_mr(volume: Volume) -> None:
    """Refuse what has the values of a CT, in HU or not, or the looks of one, as an MR."""
    if looks_like_hu(volume.array):
        share = air_share(volume.array)
        found = f"the values of a CT in HU ({share:.0%} of the voxels at or below {AIR_BELOW_HU:g})"
    elif looks_like_offset_hu(volume.array):
        found = "the values of a CT in HU + 1024"
    elif volume.array.min() < 0 and looks_cut_out(volume.array):
        found = "the values of a CT in HU with the head cut out"
    elif shows_ct(volume):
        found = "what looks like a CT by its bright skull"
    else:
        return
    raise SafetyError(f"expected MR: found {found}", fix=f"use it as CT, or {ANYWAY}")


def shows_ct(volume: Volume) -> bool:
    """Whether axial slices at the level of the brain look like a CT of any grey values (`imaging.appearance`)."""
    upright = canonical(volume)
    head = find_head(replace(upright, modality=None), "mr")
    if head is None:
        return False
    planes = [head.top - round(depth_mm / upright.spacing_mm[2]) for depth_mm in DEPTHS_MM]
    looks = []
    for k in planes:
        if k >= 0:
            small = outlined(shrunk(square_slice(upright, k)))
            look = describe(small) if small.head.any() else None
            if look is not None and look.spread >= MIN_SPREAD:
                looks.append(look)
    if len(looks) < MIN_SLICES:
        return False
    odds = log_odds("mr", looks)
    return bool(np.median(odds) <= MAX_MEDIAN_ODDS and odds.max() <= MAX_ODDS)
