"""A scan to what the networks of a model see, and back: scale, channels and grey values as its card says."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ctmr.errors import DataError, SafetyError
from ctmr.imaging.head import head_mask
from ctmr.imaging.image import Image, Scan, luma
from ctmr.imaging.intensity import PICTURES, UNITLESS, Intensity
from ctmr.imaging.modality import as_modality
from ctmr.imaging.resampling import guessed_spacing, resize
from ctmr.imaging.slices import HeadSlices, Window, head_slices, picture_window, windowed
from ctmr.imaging.upright import doubt_of
from ctmr.imaging.volume import Volume, axial_slices
from ctmr.models.card import Card
from ctmr.models.quality import require_claimed
from ctmr.system.parallel import one_ahead
from ctmr.types import NAMES, OTHER, BoolArray, Encoding, FloatArray, Modality, Spacing

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class NetworkInput:
    """A scan as the networks see it: axial slices, each made when it is needed, so that few are held in memory.

    Attributes:
        scan: Where it comes from.
        slices: (K, rows, columns, c) in the unit and on the grid of the scan; an image is one slice.
        grid: (h, w) of a slice at the model's scale.
        channels: That the networks have.
        intensity: The map of the scan's grey values to [-1, 1].
        head: Where the head is in a volume; None for an image.
        modality: Of the translation.
        encoding: Of the translation.
        target: The map of [-1, 1] to grey values of the translation.
        frame: Of an image, the window about its head where the model knows how large heads are; else None.
        guessed_mm: Pixel size of an image that says none, by the size of its head; None where it says one.
    """

    scan: Scan
    slices: FloatArray
    grid: tuple[int, int]
    channels: int
    intensity: Intensity
    head: HeadSlices | None
    modality: Modality
    encoding: Encoding
    target: Intensity
    frame: Window | None = None
    guessed_mm: float | None = None

    @property
    def kept(self) -> tuple[int, ...]:
        """The slices K by which the scan is judged: those that show the head."""
        return (0,) if self.head is None else self.head.kept

    def batch(self, places: Sequence[int]) -> FloatArray:
        """The slices at some places K, (N, h, w, C) in [-1, 1]."""
        unit = np.stack(
            [self.intensity.to_unit(resize(self.slices[k], *self.grid)) for k in places]
        )  # (N, h, w, c)
        return np.repeat(unit, self.channels // unit.shape[-1], axis=-1)

    def window(self, image: FloatArray) -> FloatArray:
        """What the networks were trained on of a slice (h, w, C): the window about the head where there was one."""
        if self.head is not None:
            return self.head.windowed(image, -1.0)
        return image if self.frame is None else windowed(image, self.frame, -1.0)

    def inside(self, k: int) -> BoolArray | None:
        """The head (rows, columns) in slice K of a volume, on its own grid."""
        if self.head is None:
            return None
        planes = self.head.head.mask(self.head.volume.array.shape, slice(k, k + 1))
        first: BoolArray = axial_slices(planes)[0]
        return first

    @property
    def outline(self) -> Scan:
        """The translation but for its values, which are those of the scan."""
        return self.scan.with_values(self.scan.array, self.encoding, self.modality)

    def planes(self, batches: Iterable[FloatArray]) -> Iterator[FloatArray]:
        """The translation's axial slices (N, rows, columns, ...) on the grid of the scan, each brought there while the next is made.

        Args:
            batches: Translated slices (N, h, w, C) in [-1, 1], from the first to the last, some at a time.
        """
        channels = 3 if self._is_coloured else 1

        def bring_back(batch: FloatArray) -> FloatArray:
            planes = np.empty((len(batch), *self.slices.shape[1:3], channels), np.float32)
            for image, plane in zip(batch, planes, strict=True):
                plane[:] = self._plane(image, plane.shape)
            return planes if self._is_coloured else planes[..., 0]

        return one_ahead(bring_back, batches)

    def whole(self, planes: Iterable[FloatArray]) -> Scan:
        """The translation of which these are the slices.

        Returns:
            An image in colour where the scan is and no HU are wanted, at its depth where the model knows that; or a
            volume, in HU or MR units.
        """
        slices, done = self.room(), 0
        for some in planes:
            slices[done : done + len(some)] = some
            done += len(some)
        return self.scan_of(slices)

    def room(self) -> FloatArray:
        """(K, rows, columns), or with 3 colours behind, for all slices of a translation."""
        colours = (3,) if self._is_coloured else ()
        return np.empty((*self.slices.shape[:3], *colours), np.float32)

    def scan_of(self, slices: FloatArray) -> Scan:
        """The translation whose slices are these, as `room` has them; see `whole`."""
        array = self.scan.from_axial(slices)
        return self.scan.with_values(array, self.encoding, self.modality)

    def restore(self, batches: Iterable[FloatArray]) -> Scan:
        """The translation on the grid of the scan; see `planes` and `whole`."""
        return self.whole(self.planes(batches))

    @property
    def _is_coloured(self) -> bool:
        return self.scan.array.ndim > self.scan.grey.ndim and self.encoding != "HU"

    def _plane(self, image: FloatArray, shape: tuple[int, ...]) -> FloatArray:
        """A translated slice (h, w, C) in [-1, 1] as one of the scan, of this shape (rows, columns, c)."""
        unit = image if self.head is None else image.mean(axis=-1, keepdims=True)
        grey = self.target.from_unit(unit)  # (h, w, C)
        if grey.shape[-1] > shape[-1]:
            grey = luma(grey)[..., None]
        return np.clip(resize(grey, *shape[:2]), self.target.low, self.target.high)

    def about(self) -> dict[str, Any]:
        """What the sidecar says of the way there and back."""
        target = self.target
        unit = "arbitrary MR units" if target.unit == "MR" else target.unit
        about: dict[str, Any] = {"unit": unit, "range": [target.low, target.high]}
        if self.head is None:
            return about | ({"guessed_mm": round(self.guessed_mm, 4)} if self.guessed_mm else {})
        count, *pixels = self.slices.shape[:3]
        clipped = self.intensity.clipped_share(self.head.head.values)
        return about | {
            "source_range": [self.intensity.low, self.intensity.high],
            "source_clipped_share": round(clipped, 6),
            "slices": count,
            "slice_pixels": pixels,
            "network_pixels": list(self.grid),
            "resampled": list(self.grid) != pixels,
        }


class Preprocessor:
    """Prepares scans for the networks of a model as its card says."""

    def __init__(self, card: Card) -> None:
        self._scale, self._data, self._intensities = card.scale, card.data, card.intensities
        self._head_mm2 = card.head_mm2
        self._ranges = {modality: usual.ranges for modality, usual in card.training.items()}
        self._told: set[Encoding] = set()

    def prepare(self, scan: Scan, modality: Modality, *, anyway: bool = False) -> NetworkInput:
        """A scan as the networks see it.

        Args:
            scan: An image or a volume.
            modality: What it is taken for.
            anyway: Take it for that even if it looks like the other.

        Raises:
            DataError: If the model knows no range or pixel size for it, its shape is unusable, or a volume shows no head.
            SafetyError: If it is of the other modality, unless `anyway`.
        """
        channels, head, frame = self._data.channels, None, None
        guessed: Spacing | None = None
        if isinstance(scan, Volume):
            checked = as_modality(scan, modality, anyway=anyway)
            intensity = self._incoming(checked, modality)
            head = head_slices(checked, modality, self._scale, self._data.size, anyway=anyway)
            intensity = intensity.fitted(head.head.values)
            slices, grid = axial_slices(head.volume.array)[..., None], head.grid
        else:
            intensity = self._incoming(scan, modality)
            array = scan.array if scan.array.ndim == 3 else scan.array[..., None]  # (H, W, c)
            if array.shape[-1] > channels:
                array = luma(array)[..., None]
            slices = scan.axial(array)
            spacing_mm = scan.spacing_mm
            if self._head_mm2 is not None:
                inside = _head_in(scan)
                if not anyway:
                    _require_head(scan, inside)
                intensity = intensity.fitted(scan.grey[inside])
                guessed = None if spacing_mm else guessed_spacing(inside, self._head_mm2)
            height, width = array.shape[:2]
            grid = self._scale.shape_for(height, width, spacing_mm or guessed)
            if self._head_mm2 is not None:
                frame = picture_window(inside, grid, self._data.size)
        to = OTHER[modality]
        encoding = self.target_encoding(scan, to)
        target = self._outgoing(encoding, to)
        made = NetworkInput(
            *(scan, slices, grid, channels, intensity, head, to, encoding, target),
            frame=frame,
            guessed_mm=guessed[0] if guessed else None,
        )
        if head is None and self._ranges and not anyway:
            require_claimed(made.window(made.batch([0])[0]), modality, self._ranges)
        return made

    def target_encoding(self, scan: Scan, to: Modality) -> Encoding:
        """How the translation is stored: in HU or MR units where the model knows them, else at the scan's depth.

        A scan in HU has its depth for HU: its MR has 8 bits where the model knows such.
        """
        known = self._intensities[to]
        if "HU" in known:
            return "HU"
        if isinstance(scan, Volume):
            return "MR" if to == "mr" else "grey"
        same: Encoding = "8-bit" if scan.depth == 8 or scan.unit == "HU" else "16-bit"
        return same if same in known else next(iter(known))

    def writes_hu(self, to: Modality) -> bool:
        """Whether translated scans of that modality are in HU."""
        return "HU" in self._intensities[to]

    def writes_8_bit(self, to: Modality) -> bool:
        """Whether an 8-bit image is translated to an 8-bit image of that modality."""
        return "8-bit" in self._intensities[to] and not self.writes_hu(to)

    def own_slices(self, scan: Scan, modality: Modality, mask: BoolArray) -> FloatArray:
        """The axial slices (K, H, W) in [-1, 1] on the scan's own grid, for figures that need no truth.

        Args:
            scan: An image, which is one slice, colours made grey; or a volume. Real or translated, an MR volume is mapped
                by the percentiles of its head, as it has no unit.
            modality: Of the scan.
            mask: Head mask on the scan's grid.
        """
        slices = scan.axial(scan.array)
        grey = luma(slices) if slices.ndim == 4 else slices
        intensity = self._outgoing(scan.encoding, modality).fitted(grey[scan.axial(mask)])
        return intensity.to_unit(grey)

    def _outgoing(self, encoding: Encoding, to: Modality) -> Intensity:
        """The map from [-1, 1] of a scan that goes out; a model of MR images has none of its own for volumes."""
        return self._intensities[to].get(encoding, UNITLESS["MR" if to == "mr" else "grey"])

    def _incoming(self, scan: Scan, modality: Modality) -> Intensity:
        """The map to [-1, 1] of a scan that comes in; an MR, which has no unit, has its own if need be."""
        known, encoding = self._intensities[modality], scan.encoding
        intensity = known.get(encoding)
        if intensity is not None:
            return intensity
        if modality == "mr" and encoding != "HU":
            if encoding not in self._told:  # once, however many there are
                self._told.add(encoding)
                what = "an MR in %s values is mapped by its own percentiles: the model was trained on %s"
                logger.warning(what, encoding, " and ".join(known))
            if isinstance(scan, Volume):
                return UNITLESS[encoding]
            return PICTURES[encoding].fitted(scan.grey)
        raise DataError(
            f"expected {NAMES[modality]} with {' or '.join(known)} values, as the model was trained on: found"
            f" {encoding}, whose range the model does not know",
            fix=_fix_of(known, scan),
        )


def _require_head(image: Image, head: BoolArray) -> None:
    """Refuse a picture that is not one head in an axial slice."""
    doubt = doubt_of(image.grey, head)
    if doubt is not None:
        raise SafetyError(
            f"expected a head in an axial slice, front at the top: found {doubt}",
            fix="turn the picture, name another, or give --anyway",
        )


def _head_in(image: Image) -> BoolArray:
    """Where the head is in an image (H, W), or all of it where none is found."""
    mask = head_mask(image.grey, hu=image.unit == "HU")
    return mask if mask.any() else ~mask


def _fix_of(known: Mapping[Encoding, Intensity], scan: Scan) -> str:
    """What makes a CT one whose values a model knows."""
    if "grey" in known and isinstance(scan, Volume):
        return "give --ct-values grey"
    if "HU" in known and isinstance(scan, Image):
        return (
            "give --ct-values LOW:HIGH, its window in HU (0:80 is a brain window), or say its HU in a"
            " ctmr.json (ctmr help data-folders)"
        )
    if "HU" in known:
        return "give --ct-values with what its values are"
    return "convert the scan"
