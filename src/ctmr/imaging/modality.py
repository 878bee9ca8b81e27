"""Is a volume a CT or an MR: what its header says, and what its values say."""

from dataclasses import replace

import numpy as np

from ctmr.errors import SafetyError
from ctmr.imaging.ct_values import (
    AIR_BELOW_HU,
    advice,
    air_share,
    looks_like_hu,
    looks_like_offset_hu,
)
from ctmr.imaging.volume import Volume
from ctmr.types import NAMES, Modality

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
        low, high = np.percentile(volume.array, (0.1, 99.9))
        looks, fix = advice(volume.array)
        raise SafetyError(
            "expected CT in HU, with air near -1000 and bone above 200: found values from"
            f" {low:.5g} to {high:.5g} ({looks})",
            fix=fix,
        )
    if modality == "mr":
        _require_mr(volume)
    return replace(volume, modality=modality)


def _require_mr(volume: Volume) -> None:
    """Refuse the values of a CT in HU, or in HU + 1024, as those of an MR."""
    if looks_like_hu(volume.array):
        share = air_share(volume.array)
        found = f"the values of a CT in HU ({share:.0%} of the voxels at or below {AIR_BELOW_HU:g})"
    elif looks_like_offset_hu(volume.array):
        found = "the values of a CT in HU + 1024"
    else:
        return
    raise SafetyError(f"expected MR: found {found}", fix=f"use it as CT, or {ANYWAY}")
