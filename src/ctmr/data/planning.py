"""From the first look at all scans to the plan of a store: scale, maps of grey values, and what lies where."""

import logging
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctmr.config import DataConfig
from ctmr.data.looks import Look
from ctmr.data.manifest import SHARD_BYTES, Manifest
from ctmr.data.sources import Source
from ctmr.data.survey import Histogram, Survey, refuse
from ctmr.errors import CtmrError, DataError
from ctmr.imaging.intensity import PICTURES, UNITLESS, Intensities, Intensity, ct_window
from ctmr.imaging.resampling import Scale, training_scale
from ctmr.types import MODALITIES, SPLITS, Encoding

# Part of a 16-bit folder's values left out at each end: a few hot pixels must not set the range.
CLIPPED_SHARE = 0.0005

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Layout:
    """What becomes of each scan, and where its slices lie.

    Attributes:
        shapes: What the slices of each scan (N, 2) are brought to, before they are padded.
        padded: What they are padded to.
        firsts: Number of the first slice of each scan, and of all slices at the end (N + 1).
        shards: The shard of each slice.
        offsets: Where each begins in it, in bytes.
    """

    shapes: NDArray[np.uint32]
    padded: NDArray[np.uint32]
    firsts: NDArray[np.int64]
    shards: NDArray[np.uint32]
    offsets: NDArray[np.uint32]


def plan(
    found: Survey, config: DataConfig, scale: Scale | None, fingerprint: str
) -> tuple[Manifest, Layout]:
    """What `store.json` is to say, and what becomes of each scan.

    `scale` is that of volumes; of images it follows from them.

    Raises:
        CtmrError: If an image has an impossible shape at the scale, or test scans are of another kind than the training's.
    """
    intensities = _intensities(found, config)
    if scale is None:
        train = [n for n, source in enumerate(found.sources) if source.split == "train"]
        shapes = [found.looks[n].shape for n in train]
        scale = training_scale(config.size, shapes, [found.looks[n].spacing_mm for n in train])
    layout = _layout(found, config, scale)
    counts = {s: dict.fromkeys(MODALITIES, 0) for s in SPLITS}
    heights = True
    for source, look in found:
        counts[source.split][source.modality] += look.slices
        heights &= source.split == "test" or look.heights_mm is not None
    manifest = Manifest(
        fingerprint=fingerprint,
        size=config.size,
        channels=config.channels,
        ct_window=config.ct_window,
        pixel_mm=config.pixel_mm,
        patient_pattern=config.patient_pattern,
        scale=scale,
        intensities=intensities,
        counts=counts,
        heights=heights,
        overlap={},
    )
    return manifest, layout


def _layout(found: Survey, config: DataConfig, scale: Scale) -> Layout:
    """Slices one after the other, in shards that the next one would make too large."""
    shapes = _shapes(found, scale)
    padded = np.maximum(shapes, config.size)
    slices = np.array([look.slices for look in found.looks], np.int64)
    firsts = np.concatenate(([0], np.cumsum(slices)))
    lengths = np.repeat(2 * config.channels * padded.prod(axis=1, dtype=np.int64), slices)
    shards, offsets = shards_of(lengths)
    return Layout(shapes, padded, firsts, shards, offsets)


def shards_of(lengths: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """The shard of each slice, and where it begins in it, by their lengths in bytes."""
    ends = np.cumsum(lengths)
    shards, offsets = np.empty(len(lengths), np.uint32), np.empty(len(lengths), np.uint32)
    first, shard = 0, 0
    while first < len(lengths):
        start = int(ends[first] - lengths[first])
        after = int(np.searchsorted(ends, start + SHARD_BYTES, side="right"))
        after = max(after, first + 1)
        shards[first:after] = shard
        offsets[first:after] = ends[first:after] - lengths[first:after] - start
        first, shard = after, shard + 1
    return shards, offsets


def _shapes(found: Survey, scale: Scale) -> NDArray[np.uint32]:
    """The shape each image is brought to, before it is padded."""
    shapes = np.empty((len(found.looks), 2), np.uint32)
    failures: list[tuple[Source, CtmrError]] = []
    for n, (source, look) in enumerate(found):
        if look.heights_mm is not None:
            shapes[n] = look.shape
            continue
        try:
            shapes[n] = scale.shape_for(*look.shape, look.spacing_mm)
        except DataError as error:
            failures.append((source, DataError(error.what, file=source.path, fix=error.fix)))
    refuse(failures, len(found.looks))
    return shapes


def _intensities(found: Survey, config: DataConfig) -> Intensities:
    """The map to [-1, 1] of each encoding of the training images, the commonest first."""
    intensities: Intensities = {}
    failures: list[tuple[Source, CtmrError]] = []
    for modality in MODALITIES:
        trained = Counter(
            look.encoding
            for source, look in found
            if (source.split, source.modality) == ("train", modality)
        )
        if len(trained) > 1:
            logger.warning("the %s training images differ in encoding: %s", modality, dict(trained))
        own: dict[Encoding, Intensity] = {}
        for source, look in found:
            if source.modality != modality or look.encoding in trained:
                continue
            # An MR has no unit: a test picture of another depth is mapped by its own percentiles.
            if modality == "mr" and look.encoding in PICTURES:
                own[look.encoding] = PICTURES[look.encoding]
            else:
                failures.append((source, _unlike(source, look, " or ".join(trained))))
        grey = found.histograms.get(modality)
        maps = {encoding: _map(encoding, grey, config) for encoding, _ in trained.most_common()}
        intensities[modality] = maps | own
    refuse(failures, len(found.looks))
    return intensities


def _unlike(source: Source, look: Look, expected: str) -> DataError:
    """What is said of a test scan whose values no training image explains."""
    what = f"expected {expected} values, as the {source.modality} training images have"
    what += f": found {look.encoding}"
    return DataError(what, file=source.path, fix="save the test images like the training images")


def _map(encoding: Encoding, histogram: Histogram | None, config: DataConfig) -> Intensity:
    """The map of training images of an encoding."""
    if encoding == "HU":
        return ct_window(config.ct_window)
    if encoding in UNITLESS:
        return UNITLESS[encoding]
    if encoding == "8-bit" or histogram is None:
        return Intensity("grey", (0.0, 255.0))
    return _percentiles(histogram)


def _percentiles(histogram: Histogram) -> Intensity:
    """The map of the 0.05 to 99.95 percentile range of 16-bit values."""
    below = np.cumsum(histogram)
    low = int(np.searchsorted(below, CLIPPED_SHARE * below[-1], side="right"))
    high = int(np.searchsorted(below, (1 - CLIPPED_SHARE) * below[-1]))
    return Intensity("grey", (float(low), float(max(high, low + 1))))
