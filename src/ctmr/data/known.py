"""Training samples whose translation is known: rendered pairs, half-real pairs, and the user's registered pairs."""

import hashlib
import logging
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ctmr.config import Config
from ctmr.data.dataset import UnpairedSlices
from ctmr.data.registered import RegisteredSlices, registered_slices
from ctmr.data.store import Store, evenly, from_codes
from ctmr.errors import UsageError
from ctmr.imaging.ct_values import window_of
from ctmr.imaging.ct_window import estimated_window
from ctmr.imaging.head import head_mask
from ctmr.imaging.intensity import Intensity
from ctmr.imaging.resampling import guessed_spacing
from ctmr.io.reading import DEFAULT, Reading
from ctmr.synthetic.anatomies import Anatomy, cached_anatomies
from ctmr.synthetic.half_real import rendered_mr
from ctmr.synthetic.pairs import render_pair
from ctmr.system.rng import stream
from ctmr.types import BoolArray, FloatArray

logger = logging.getLogger(__name__)

TOP_OF_TRUE_MR = 1.3
"""Signal of the true MR, white matter 1, at the value 1."""

Known = dict[str, Tensor]
"""Images `(C, size, size)` in [-1, 1] by name: `SOURCE_mr` -> `SOURCE_true_ct` and `SOURCE_ct` -> `SOURCE_true_mr`."""


RIM_MM = 10.0
"""Of a real CT round its head: blur, hair, a pillow. What lies further away is taken for air."""
WINDOW_IMAGES = 48
"""Images by which a window or a pixel size is estimated."""
HEAD_MM2 = 24_500.0
"""Area of a head in an axial slice 45 to 120 mm below its top, by which the pixel size of pictures is known."""


@dataclass(frozen=True)
class CtValues:
    """How HU become the values of the CT images that the networks see.

    Attributes:
        map: From HU to [-1, 1].
        low_hu: Lowest HU that the images can show.
        high_hu: Highest.
    """

    map: Intensity
    low_hu: float
    high_hu: float

    def to_unit(self, hu: FloatArray) -> FloatArray:
        """HU to [-1, 1]."""
        return self.map.to_unit(np.clip(hu, self.low_hu, self.high_hu))

    def to_hu(self, values: FloatArray) -> FloatArray:
        """[-1, 1] to HU."""
        return self.map.from_unit(values)


def ct_values_of(store: Store) -> CtValues:
    """How HU become the values of the CT images of a store; a warning where they are cut by a window nobody stated."""
    own = next(iter(store.intensities["ct"].values()))
    if own.unit == "HU":
        stated = window_of(str(store.manifest.reading.get("ct_values", "hu")))
        low, high = stated or (own.low, own.high)
        return CtValues(own, max(low, own.low), min(high, own.high))
    places = evenly(store.count("train", "ct"), WINDOW_IMAGES)
    shown = [store.slice("train", "ct", place)[::2, ::2].ravel() for place in places]
    low, high = estimated_window((np.concatenate(shown) + np.float32(1)) / np.float32(2))
    logger.warning(
        "the CT images have no HU: their window is estimated as %g to %g HU, and rendered pairs pass through"
        " it (--ct-values LOW:HIGH states it)",
        low,
        high,
    )
    return CtValues(Intensity("HU", (low, high)), low, high)


def typical_pixel_mm(store: Store) -> float:
    """The pixel size of the slices of a store: its own, or for pictures that of the median MR by the area of its head."""
    if store.scale.pixel_mm is not None:
        return store.scale.pixel_mm
    sides = []
    for place in evenly(store.count("train", "mr"), WINDOW_IMAGES):
        head = head_mask(store.slice("train", "mr", place).mean(axis=-1), hu=False)
        if head.any():
            sides.append(guessed_spacing(head, HEAD_MM2)[0])
    return statistics.median(sides) if sides else 1.0


class TrainingSamples(Dataset[tuple[Tensor, Tensor, Known]]):
    """Sample `n` of the unpaired slices, with what is known beside it: `(x, y, known)`.

    Args:
        store: The user's slices.
        config: What is wanted; all randomness is a pure function of its seed and of the sample's number.
        anatomies: Heads for rendered pairs; none are needed where no weight asks for them.
        pairs: Registered slices.
    """

    def __init__(
        self,
        store: Store,
        config: Config,
        anatomies: Sequence[Anatomy] = (),
        pairs: RegisteredSlices | None = None,
    ) -> None:
        self.unpaired = UnpairedSlices(store, config.data, config.seed)
        self.store = store
        data, self._loss, self._seed = config.data, config.loss, config.seed
        self._size, self._channels, self._flip = data.size, data.channels, data.flip
        self._anatomies, self._pairs = anatomies, pairs or []
        if self._loss.truth > 0 or self._loss.half_real > 0:
            self._ct = ct_values_of(store)
            self._pixel_mm = typical_pixel_mm(store)

    def __getitem__(self, n: int) -> tuple[Tensor, Tensor, Known]:
        """Sample number `n >= 0` of the run."""
        x, y = self.unpaired[n]
        known: Known = {}
        if self._loss.truth > 0:
            known |= self._rendered(n)
        if self._loss.half_real > 0:
            known |= self._half_real(n, x)
        if self._pairs:
            known |= self._registered(n)
        return x, y, known

    @property
    def knots(self) -> list[tuple[float, float]] | None:
        """(HU, value in [-1, 1]) of the map of the CT images; None where they have no HU."""
        own = next(iter(self.store.intensities["ct"].values()))
        return list(zip(own.values, own.levels, strict=True)) if own.unit == "HU" else None

    def _rendered(self, n: int) -> Known:
        shape = (self._size, self._size)
        pair = render_pair(self._anatomies, shape, self._seed, n, pixel_mm=self._pixel_mm)
        mr = as_network_sees(stream(self._seed, "ends", n), pair.mr, pair.head)
        true_mr = (2 * pair.true_mr / TOP_OF_TRUE_MR - 1).clip(-1, 1)
        return {
            "truth_ct": self._tensor(self._ct.to_unit(pair.ct)),
            "truth_true_mr": self._tensor(true_mr),
            "truth_mr": self._tensor(mr),
            "truth_true_ct": self._tensor(self._ct.to_unit(pair.true_ct)),
        }

    def _half_real(self, n: int, x: Tensor) -> Known:
        """An MR rendered from a CT, and that CT without the table, of which the MR tells nothing."""
        hu = self._ct.to_hu(x.numpy().mean(axis=0))
        mr, head = rendered_mr(hu, self._pixel_mm, self._seed, n, low_hu=self._ct.low_hu)
        seen = as_network_sees(stream(self._seed, "half-real ends", n), mr, head)
        near = torch.from_numpy(
            scipy.ndimage.distance_transform_edt(~head) * self._pixel_mm <= RIM_MM
        )
        return {
            "half_real_mr": self._tensor(seen),
            "half_real_true_ct": torch.where(near, x, x.new_tensor(-1.0)),
        }

    def _registered(self, n: int) -> Known:
        draw = stream(self._seed, "registered", n)
        ct, mr = self._pairs[int(draw.integers(len(self._pairs)))]
        top, left = (int(draw.integers(side - self._size + 1)) for side in ct.shape[:2])
        mirror = self._flip and bool(draw.integers(2))
        images = []
        for codes in (ct, mr):
            crop = from_codes(codes[top : top + self._size, left : left + self._size])
            crop = crop[:, ::-1] if mirror else crop
            images.append(torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1))))
        real_ct, real_mr = images
        return {
            "pairs_ct": real_ct,
            "pairs_true_mr": real_mr,
            "pairs_mr": real_mr,
            "pairs_true_ct": real_ct,
        }

    def _tensor(self, image: FloatArray) -> Tensor:
        planes = np.repeat(np.asarray(image, np.float32)[None], self._channels, axis=0)
        return torch.from_numpy(planes)


def training_samples(
    config: Config,
    store: Store,
    pairs: Path | str | None = None,
    anatomies: Path | str | None = None,
    reading: Reading = DEFAULT,
) -> tuple[TrainingSamples, dict[str, str]]:
    """The training samples, and the hashes of the anatomies and registered pairs that they come from.

    Args:
        config: Which kinds are wanted.
        store: The user's slices.
        pairs: Folder of registered pairs.
        anatomies: Folder of label maps; None takes procedural heads.
        reading: What to believe of pairs that say too little.

    Raises:
        CtmrError: If anatomies or pairs cannot be read or have no use, or nothing is left to learn from.
    """
    loss, heads, registered = config.loss, list[Anatomy](), None
    for name, given in (("truth", anatomies), ("pairs", pairs)):
        if given is not None and getattr(loss, name) == 0:
            option = "anatomies" if name == "truth" else name
            raise UsageError(
                f"--{option} has no use without loss.{name}",
                fix=f"add --set loss.{name}=1, or leave it out",
            )
    weights = (loss.adversary, loss.cycle, loss.identity, loss.structure, loss.truth)
    if not any((*weights, loss.half_real, pairs is not None)):
        raise UsageError(
            "every weight of the loss is 0, so that nothing can be learnt",
            fix="set loss.half_real=1",
        )
    sources: dict[str, str] = {}
    if loss.truth > 0:
        heads = cached_anatomies(anatomies)
        sources["anatomies"] = _hash_of(head.key.encode() for head in heads)
    if pairs is not None:
        registered = registered_slices(Path(pairs), store, config.data.patient_pattern, reading)
        sources["pairs"] = _hash_of(array.tobytes() for pair in registered for array in pair)
    return TrainingSamples(store, config, heads, registered), sources


def as_network_sees(rng: np.random.Generator, mr: FloatArray, head: BoolArray) -> FloatArray:
    """A rendered MR (H, W) in [-1, 1], by percentiles of its head as far apart as users' data have them."""
    inside = mr[head] if head.any() else mr
    low, high = np.quantile(inside, (0.005, rng.uniform(0.975, 0.999)))
    low = min(low, 0.15 * high) * rng.uniform()
    return np.asarray(2 * (mr - low) / max(high - low, 1e-3) - 1, np.float32).clip(-1, 1)


def _hash_of(parts: Iterable[bytes]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()
