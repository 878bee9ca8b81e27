"""Whether a picture shows one head in an axial slice, its front at the top or at the bottom: by outline and symmetry."""

import math

import numpy as np
from PIL import Image as Pillow

from ctmr.types import BoolArray, FloatArray

# Chosen on 462 real slices of four sets, of which the least elliptic had 0.92; docs/project/results.md has what is refused by it.
LEAST_ELLIPTIC = 0.92
# Heads are longer from front to back than wide, and left mirrors right: both summed, upright slices had -0.12 or more
# but for some in a narrow CT window; turned by 90 degrees they have the contrary sign.
LEAST_UPRIGHT = -0.2
# A head leaves air at the rim; what covers more of it has no outline to be judged by.
MOST_RIM, MOST_AREA = 0.6, 0.97
SIDE = 49  # pixels of the picture that symmetry is judged by


def doubt_of(image: FloatArray, head: BoolArray) -> str | None:
    """Why a picture cannot be one head in an axial slice; None if it can.

    Args:
        image: (H, W), any unit.
        head: Where the head is in it, of the same shape.
    """
    rim = np.concatenate([head[0], head[-1], head[:, 0], head[:, -1]])
    if head.mean() > MOST_AREA and rim.mean() > MOST_RIM:
        return "no outline of a head: it is bright up to its rim"
    rows, columns = np.nonzero(head)
    covariance = np.cov(np.stack([rows, columns]))
    spread = math.sqrt(max(float(np.linalg.det(covariance)), 1e-9))
    if head.sum() / (4 * math.pi * spread) < LEAST_ELLIPTIC:  # 1 for an ellipse
        return "no outline of a head: it is not one round shape"
    longer = math.log(max(covariance[0, 0], 1e-9) / max(covariance[1, 1], 1e-9)) / 2
    if longer + _symmetry(image, head) < LEAST_UPRIGHT:
        return "a head that lies on its side"
    return None


def _symmetry(image: FloatArray, head: BoolArray) -> float:
    """Correlation of the head with its left-right mirror image, less that with its top-bottom one."""
    rows, columns = np.nonzero(head)
    reach = max(np.ptp(rows), np.ptp(columns)) // 2 + 2
    low, high = (float(v) for v in np.percentile(image[head], (2, 98)))
    scaled = (image.clip(low, high) - low) / max(high - low, 1e-6) + 0.5
    padded = np.pad(np.where(head, scaled, 0), reach)
    top, left = round(float(rows.mean())), round(float(columns.mean()))
    about = padded[top : top + 2 * reach + 1, left : left + 2 * reach + 1].astype(np.float32)
    small = np.asarray(Pillow.fromarray(about).resize((SIDE, SIDE), Pillow.Resampling.BOX))
    seen = small > 0.2
    seen = seen | seen[:, ::-1] | seen[::-1]
    first, across, down = small[seen], small[:, ::-1][seen], small[::-1][seen]
    return float(np.corrcoef(first, across)[0, 1] - np.corrcoef(first, down)[0, 1])
