"""The slices of the user's registered pairs, as they are trained on."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ctmr.data.manifest import Codes
from ctmr.data.pairs import Pair, find_pairs, read_pair, require_all, without_maps
from ctmr.data.store import Store, to_codes
from ctmr.errors import DataError, printable
from ctmr.imaging.image import Image, Scan
from ctmr.imaging.intensity import Intensity
from ctmr.imaging.resampling import resize
from ctmr.imaging.slices import head_slices
from ctmr.imaging.volume import Volume
from ctmr.io.reading import DEFAULT, Reading
from ctmr.types import MODALITIES, FloatArray, Modality

logger = logging.getLogger(__name__)

RegisteredSlices = list[tuple[Codes, Codes]]
"""CT and MR of one grid, (H, W, C) each."""


def registered_slices(
    folder: Path, store: Store, patient_pattern: str | None, reading: Reading = DEFAULT
) -> RegisteredSlices:
    """The slices of PAIRS, a folder with `ct/` and `mr/`, at the scale and in the values of a store.

    Raises:
        CtmrError: Naming all scans that cannot be used.
    """
    pairs = without_maps(find_pairs(folder, patient_pattern, reading))
    require_all(pairs)
    slices = [found for pair in pairs for found in _slices(pair, store)]
    logger.info("%s: %d registered slices", printable(str(folder)), len(slices))
    return slices


def _slices(pair: Pair, store: Store) -> RegisteredSlices:
    scans = read_pair(pair)
    ct, mr = scans["ct"], scans["mr"]
    if isinstance(ct, Image) and isinstance(mr, Image):
        images = [(_of_image(pair, ct, "ct", store), _of_image(pair, mr, "mr", store))]
    else:
        images = [(first, second) for first, second in _of_volumes(pair, scans, store)]
    return [(_codes(first, store), _codes(second, store)) for first, second in images]


def _of_volumes(
    pair: Pair, scans: dict[Modality, Scan], store: Store
) -> Iterator[tuple[FloatArray, ...]]:
    """CT and MR slices (H, W) in [-1, 1] where the CT of the pair has a head."""
    size, anyway = store.manifest.size, pair.reading.anyway
    volumes = {m: scan for m, scan in scans.items() if isinstance(scan, Volume)}
    own = {m: head_slices(volumes[m], m, store.scale, size, anyway=anyway) for m in MODALITIES}
    images = []
    for modality in MODALITIES:
        intensity = _intensity(pair, scans[modality], modality, store)
        there = replace(own["ct"], volume=own[modality].volume)
        images.append(there.images(intensity.fitted(own[modality].head.values)))
    yield from zip(*images, strict=True)


def _of_image(pair: Pair, image: Image, modality: Modality, store: Store) -> FloatArray:
    """An image (h, w) or (h, w, C) in [-1, 1] at the scale of the store."""
    height, width = image.grey.shape
    shape = store.scale.shape_for(height, width, image.spacing_mm)
    array = image.grey if store.manifest.channels == 1 else image.array
    intensity = _intensity(pair, image, modality, store).fitted(image.grey)
    return intensity.to_unit(resize(array, *shape))


def _intensity(pair: Pair, scan: Scan, modality: Modality, store: Store) -> Intensity:
    known = store.intensities[modality]
    if scan.encoding not in known:
        raise DataError(
            f"expected {' or '.join(known)} values, as the {modality} training images have: found"
            f" {scan.encoding}",
            file=pair.ct if modality == "ct" else pair.mr,
            fix="save the pairs like the training images",
        )
    return known[scan.encoding]


def _codes(image: FloatArray, store: Store) -> Codes:
    """An image as the store holds its slices, (H, W, C), at least as large as a crop."""
    size, channels = store.manifest.size, store.manifest.channels
    array = image.reshape(*image.shape[:2], -1)
    rows, columns = (max(0, size - side) for side in array.shape[:2])
    around = ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0))
    codes = to_codes(np.pad(array, around, constant_values=-1.0))
    return np.ascontiguousarray(np.broadcast_to(codes, (*codes.shape[:2], channels)))
