#!/usr/bin/env python3
"""One head in many forms: what the bundled model makes of each, and what it says of it.

    sweep.py ANATOMIES [--map N] [--out FILE.json]

A head of a label map is rendered as CT and MR, its face removed, and translated to CT as it is and changed: another contrast,
the skull taken away, thicker slices, turned, mirrored, half of it, noise. Printed are the mean absolute error in the head in HU,
the level of the result's quality, and its reasons.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from ctmr import load_model
from ctmr.errors import CtmrError
from ctmr.imaging.volume import Volume
from ctmr.synthetic.anatomies import cached_anatomies
from ctmr.synthetic.head import Head
from ctmr.synthetic.rendered_head import rendered_head
from ctmr.synthetic.tissues import BRAIN, LABELS
from ctmr.system.files import write_json

SHAPE, SPACING_MM, SEED = (200, 240, 36), (1.0, 1.0, 4.0), 5
INSIDE = np.isin(np.arange(len(LABELS)), [LABELS.index(name) for name in (*BRAIN, "csf")])
Change = Callable[[np.ndarray], np.ndarray]


def thicker(array: np.ndarray) -> np.ndarray:
    """Slices of 8 mm in place of 4: the mean of two, each given twice."""
    pairs = array[..., : array.shape[2] // 2 * 2].reshape(*array.shape[:2], -1, 2)
    return np.repeat(pairs.mean(axis=3), 2, axis=2)


def turned(degrees: float) -> Change:
    """Turned in the axial plane."""
    return lambda array: ndimage.rotate(
        array, degrees, reshape=False, order=1, mode="constant", cval=float(array.min())
    )


def lower_half_gone(array: np.ndarray) -> np.ndarray:
    """Only the upper half of the slices."""
    out = array.copy()
    out[..., : array.shape[2] // 2] = array.min()
    return out


def right_half_gone(array: np.ndarray) -> np.ndarray:
    """Only one side of the head."""
    out = array.copy()
    out[: array.shape[0] // 2] = array.min()
    return out


def noisy(array: np.ndarray) -> np.ndarray:
    """Noise of a tenth of the brightest percentile."""
    noise = np.random.default_rng(0).normal(0, 0.1 * np.percentile(array, 99), (2, *array.shape))
    noisy_one: np.ndarray = np.hypot(array + noise[0], noise[1])
    return noisy_one


def stripped(head: Head) -> Head:
    """The brain alone; outside is air."""
    brain = ndimage.binary_dilation(INSIDE[head.labels], iterations=2)
    ct = np.where(brain, head.ct, np.float32(-1000))
    return replace(head, ct=ct, mr=np.where(brain, head.mr, np.float32(0)), mask=brain)


def measured(
    model: Any, head: Head, change: Change | None, *, mr_only: bool = False
) -> dict[str, Any]:
    """Error and quality of one form of the head; a change of the MR alone leaves the truth."""
    mr, ct, mask = head.mr, head.ct, head.mask
    if change is not None:
        mr = change(mr)
        if not mr_only:
            ct, mask = change(ct), change(mask.astype(np.float32)) > 0.5
    scan = Volume(np.ascontiguousarray(mr, np.float32), head.affine, "mr")
    try:
        done = model.translation(scan, "ct", quality="fast", anyway=False)
    except CtmrError as error:
        return {"refused": error.what[:160]}
    off = np.abs(done.scan.array - ct)[mask]
    quality = done.quality
    return {
        "mae_hu": round(float(off.mean()), 1),
        "level": quality.level,
        "reasons": quality.why,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("anatomies")
    parser.add_argument("--map", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    anatomy = cached_anatomies(options.anatomies)[options.map]
    geometry: dict[str, Any] = {"shape": SHAPE, "spacing_mm": SPACING_MM}
    t1 = rendered_head(anatomy, SEED, **geometry)
    model = load_model()
    found = {
        "T1, face removed": measured(model, t1, None),
        "T2": measured(model, rendered_head(anatomy, SEED, **geometry, sequence="t2"), None),
        "skull removed": measured(model, stripped(t1), None),
        "slices of 8 mm": measured(model, t1, thicker),
        "turned by 20 degrees": measured(model, t1, turned(20)),
        "turned by 90 degrees": measured(model, t1, lambda array: np.rot90(array)),
        "mirrored": measured(model, t1, lambda array: array[::-1]),
        "upper half": measured(model, t1, lower_half_gone),
        "one side": measured(model, t1, right_half_gone),
        "noise": measured(model, t1, noisy, mr_only=True),
    }
    print(json.dumps({"map": anatomy.name, **found}, indent=1, default=str))
    if options.out is not None:
        write_json(options.out, found)


if __name__ == "__main__":
    main()
