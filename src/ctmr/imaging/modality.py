"""Is a volume a CT or an MR: what its header says, and what its values say."""

from dataclasses import replace

import numpy as np

from ctmr.errors import SafetyError
from ctmr.imaging.volume import Volume
from ctmr.types import NAMES, Modality

# A head CT in HU has air around it: at least this share of voxels lies at or below -500 HU, and hardly any MR has them.
AIR_HU, AIR_SHARE = -500.0, 0.02
# And it has bone, though hardly anything beyond metal: its 99.9 percentile lies between.
BONE_HU, BONE_SHARE = (200.0, 5000.0), 0.001


def as_modality(volume: Volume, modality: Modality) -> Volume:
    """The volume as the modality it is taken for.

    Raises:
        SafetyError: If its header says another, or its values are those of another.
    """
    if volume.modality not in (None, modality):
        raise SafetyError(
            f"expected {NAMES[modality]}: the header says {NAMES[volume.modality]}",
            fix="translate it in the other direction, or name another scan",
        )
    is_ct = looks_like_ct(volume)
    if modality == "ct" and not is_ct:
        low, high = np.percentile(volume.array, (0.1, 99.9))
        raise SafetyError(
            "expected CT in HU, with air near -1000 and bone above 200: found values from"
            f" {low:.5g} to {high:.5g}",
            fix="convert the values to HU, or translate it as an MR",
        )
    if modality == "mr" and is_ct:
        raise SafetyError(
            f"expected MR: found the values of a CT in HU ({_air_share(volume):.0%} of the voxels at or"
            f" below {AIR_HU:g})",
            fix="translate it in the other direction, or name another scan",
        )
    return replace(volume, modality=modality)


def looks_like_ct(volume: Volume) -> bool:
    """Whether the values are those of a CT in HU."""
    least, most = (float((volume.array > hu).mean()) for hu in BONE_HU)
    return _air_share(volume) >= AIR_SHARE and least >= BONE_SHARE >= most


def _air_share(volume: Volume) -> float:
    return float((volume.array <= AIR_HU).mean())
