"""PAIRS: a folder with `ct/`, `mr/` and optionally `mask/`, where one name is one slice."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ctmr.cyclegan import Modality
from ctmr.errors import DataError, printable
from ctmr.folders import patient_finder
from ctmr.metrics import BoolArray, head_mask
from ctmr.scan import Image, find_images, read_image

logger = logging.getLogger(__name__)

# Lowest HU of a head: between air and fat.
HEAD_ABOVE = -300.0
_LEVEL = re.compile(r"slice-?(\d+)")


@dataclass(frozen=True)
class Pair:
    """One slice in both modalities.

    Attributes:
        name: File name without suffix.
        patient: What `data.patient_pattern` finds in the name, else the name.
        level: Number after `slice` in the name: slices of one level are at one height; None if it has none.
        ct: File of the CT.
        mr: File of the MR.
        mask: File of the head mask, if there is one.
    """

    name: str
    patient: str
    level: int | None
    ct: Path
    mr: Path
    mask: Path | None


def find_pairs(folder: Path, patient_pattern: str | None = None) -> list[Pair]:
    """The pairs of a folder, sorted by name.

    Raises:
        DataError: If `ct/` or `mr/` is missing, no name is in both, or a name is there twice.
    """
    files = {kind: _by_stem(folder / kind) for kind in ("ct", "mr", "mask")}
    both = sorted(files["ct"].keys() & files["mr"].keys())
    if not both:
        counts = ", ".join(f"{len(files[kind])} in {kind}/" for kind in ("ct", "mr"))
        raise DataError(
            f"expected images of the same names in ct/ and mr/: found {counts}, none in both",
            file=folder,
            fix="give a folder of pairs (docs/data.md)",
        )
    alone = len(files["ct"].keys() ^ files["mr"].keys())
    if alone:
        logger.warning("%s: left out %d images without a partner", printable(str(folder)), alone)
    patient_of = patient_finder(patient_pattern)
    pairs = []
    for stem in both:
        level = _LEVEL.search(stem)
        pairs.append(
            Pair(
                name=printable(stem),
                patient=patient_of(files["ct"][stem].name) or printable(stem),
                level=int(level.group(1)) if level else None,
                ct=files["ct"][stem],
                mr=files["mr"][stem],
                mask=files["mask"].get(stem),
            )
        )
    return pairs


def read_pair(pair: Pair) -> dict[Modality, Image]:
    """Both images of a pair.

    Raises:
        DataError: If one cannot be read, or their sizes differ.
    """
    images: dict[Modality, Image] = {"ct": read_image(pair.ct), "mr": read_image(pair.mr)}
    shapes = {modality: image.array.shape[:2] for modality, image in images.items()}
    if shapes["ct"] != shapes["mr"]:
        raise DataError(
            f"expected two images of one size: found CT {shapes['ct']} and MR {shapes['mr']}",
            file=pair.mr,
            fix="register the pair onto one grid",
        )
    return images


def head_of(pair: Pair, images: Mapping[Modality, Image]) -> BoolArray:
    """The head mask (H, W) of a pair: its mask file, else the CT above -300 HU, else the MR above Otsu's threshold.

    Raises:
        DataError: If the mask has another size, or there is no head in it.
    """
    ct, mr = images["ct"], images["mr"]
    if pair.mask is not None:
        mask = read_image(pair.mask, channels=1).array > 0
    elif ct.unit == "HU":
        mask = head_mask(ct.array, HEAD_ABOVE)
    else:
        grey = mr.array if mr.array.ndim == 2 else mr.array.mean(axis=-1)
        mask = head_mask(grey.astype(np.float32), None)
    if mask.shape != ct.array.shape[:2] or not mask.any():
        raise DataError(
            f"expected a head mask of {ct.array.shape[:2]}: found {mask.shape} with {int(mask.sum())}"
            " pixels in it",
            file=pair.mask or pair.mr,
            fix="correct or remove the mask",
        )
    return mask


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        if folder.name == "mask":
            return {}
        raise DataError(
            "expected a folder of images: found none",
            file=folder,
            fix="give a folder with ct/ and mr/ (docs/data.md)",
        )
    found: dict[str, Path] = {}
    for path in find_images(folder):
        if path.stem in found:
            raise DataError(
                f"two images are called {printable(path.stem)!r}", file=folder, fix="rename one"
            )
        found[path.stem] = path
    return found
