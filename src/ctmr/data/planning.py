"""From the first look at all scans to the index of a store: scale, maps of grey values, and what lies where."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ctmr.config import DataConfig
from ctmr.data.sources import Source
from ctmr.data.store import Entry, Index
from ctmr.data.survey import Histogram, Look, Survey, overlap, patient_of, refuse
from ctmr.errors import CtmrError, DataError
from ctmr.imaging.intensity import PICTURES, UNITLESS, Intensities, Intensity, ct_window
from ctmr.imaging.resampling import Scale, training_scale
from ctmr.types import MODALITIES, SPLITS, Encoding

# Part of a 16-bit folder's values left out at each end: a few hot pixels must not set the range.
CLIPPED_SHARE = 0.0005

Shapes = list[tuple[int, int]]

logger = logging.getLogger(__name__)


class Plan(NamedTuple):
    """What becomes of one scan."""

    entries: tuple[Entry, ...]
    """Its slices."""
    shape: tuple[int, int]
    """What each is brought to, before it is padded to the entry's height and width."""


def plan(
    found: Survey, config: DataConfig, scale: Scale | None, fingerprint: str
) -> tuple[Index, list[Plan]]:
    """The index of the store to be written, and what becomes of each scan.

    `scale` is that of volumes; of images it follows from them.

    Raises:
        CtmrError: If an image has an impossible shape at the scale, or test scans are of another kind than the training's.
    """
    intensities = _intensities(found, config)
    train = [look for source, look in found.looks if source.split == "train"]
    if scale is None:
        scale = training_scale(
            config.size, [look.shape for look in train], [look.spacing_mm for look in train]
        )
    shapes = _shapes(found.looks, scale)
    entries: dict[tuple[str, str], list[Entry]] = {(s, m): [] for s in SPLITS for m in MODALITIES}
    plans, offset = [], 0
    for (source, look), shape in zip(found.looks, shapes, strict=True):
        height, width = max(shape[0], config.size), max(shape[1], config.size)
        slices = []
        for n, mm in enumerate(look.heights_mm or (None,)):
            name = source.name if mm is None else f"{source.name}#{n:03d}"
            patient = patient_of(source, look)
            slices.append(Entry(name, patient, height, width, offset, look.sha256, mm))
            offset += height * width * config.channels
        entries[source.split, source.modality] += slices
        plans.append(Plan(tuple(slices), shape))
    index = Index(
        fingerprint=fingerprint,
        size=config.size,
        channels=config.channels,
        ct_window=config.ct_window,
        pixel_mm=config.pixel_mm,
        patient_pattern=config.patient_pattern,
        scale=scale,
        intensities=intensities,
        entries={s: {m: tuple(entries[s, m]) for m in MODALITIES} for s in SPLITS},
        overlap=overlap(found),
    )
    return index, plans


def _shapes(looks: Sequence[tuple[Source, Look]], scale: Scale) -> Shapes:
    """The shape each image is brought to, before it is padded."""
    shapes: Shapes = []
    failures: list[tuple[Source, CtmrError]] = []
    for source, look in looks:
        if look.heights_mm is not None:
            shapes.append(look.shape)
            continue
        try:
            shapes.append(scale.shape_for(*look.shape, look.spacing_mm))
        except DataError as error:
            failures.append((source, DataError(error.what, file=source.path, fix=error.fix)))
    refuse(failures, len(looks))
    return shapes


def _intensities(found: Survey, config: DataConfig) -> Intensities:
    """The map to [-1, 1] of each encoding of the training images, the commonest first."""
    intensities: Intensities = {}
    failures: list[tuple[Source, CtmrError]] = []
    for modality in MODALITIES:
        looks = [(source, look) for source, look in found.looks if source.modality == modality]
        trained = Counter(look.encoding for source, look in looks if source.split == "train")
        if len(trained) > 1:
            logger.warning("the %s training images differ in encoding: %s", modality, dict(trained))
        own: dict[Encoding, Intensity] = {}
        for source, look in looks:
            # An MR has no unit: a test picture of another depth is mapped by its own percentiles.
            if modality == "mr" and look.encoding not in trained and look.encoding in PICTURES:
                own[look.encoding] = PICTURES[look.encoding]
            elif look.encoding not in trained:
                what = f"expected {' or '.join(trained)} values, as the {modality} training images"
                what += f" have: found {look.encoding}"
                fix = "save the test images like the training images"
                failures.append((source, DataError(what, file=source.path, fix=fix)))
        maps: dict[Encoding, Intensity] = {}
        for encoding, _ in trained.most_common():
            if encoding == "HU":
                maps[encoding] = ct_window(config.ct_window)
            elif encoding in UNITLESS:
                maps[encoding] = UNITLESS[encoding]
            elif encoding == "8-bit":
                maps[encoding] = Intensity("grey", (0.0, 255.0))
            else:
                maps[encoding] = _percentiles(found.histograms[modality])
        intensities[modality] = maps | own
    refuse(failures, len(found.looks))
    return intensities


def _percentiles(histogram: Histogram) -> Intensity:
    """The map of the 0.05 to 99.95 percentile range of 16-bit values."""
    below = np.cumsum(histogram)
    low = int(np.searchsorted(below, CLIPPED_SHARE * below[-1], side="right"))
    high = int(np.searchsorted(below, (1 - CLIPPED_SHARE) * below[-1]))
    return Intensity("grey", (float(low), float(max(high, low + 1))))
