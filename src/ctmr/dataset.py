"""Unpaired slices from the store: sample n of a run is a pure function of the seed and n."""

import functools
import multiprocessing

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ctmr.config import DataConfig
from ctmr.randomness import stream
from ctmr.store import Store, from_codes
from ctmr.volume import MODALITIES, Modality

Sample = tuple[Tensor, Tensor]
NEAR_MM = 6.0  # heights that count as similar


@functools.lru_cache(maxsize=8)
def permutation(
    seed: int, modality: Modality, epoch: int, repeat: int, count: int
) -> NDArray[np.int64]:
    """The order in which one folder is walked; the smaller folder is walked anew in each repeat."""
    order = stream(seed, "order", modality, epoch, repeat).permutation(count)
    order.setflags(write=False)  # the cache hands the same array to everyone
    return order


class UnpairedSlices(Dataset[Sample]):
    """Training samples (x, y): a CT and an MR slice that do not pair, cropped and mirrored at random.

    Args:
        store: Prepared slices.
        config: Size of the crop, whether to mirror, and whether to pair slices of volumes by their heights.
        seed: All randomness is a pure function of it and of the sample's number.
    """

    def __init__(self, store: Store, config: DataConfig, seed: int) -> None:
        self.store = store
        self.size = config.size
        self.flip = config.flip
        self.seed = seed
        self._heights: dict[Modality, NDArray[np.float64]] = {}
        entries = {modality: store.entries("train", modality) for modality in MODALITIES}
        if config.match_heights and all(e.height_mm is not None for e in sum(entries.values(), ())):
            for modality, its in entries.items():
                self._heights[modality] = np.array([e.height_mm for e in its], dtype=np.float64)

    @property
    def images(self) -> int:
        """Samples in one epoch: the images of the larger folder."""
        return max(self.store.count("train", modality) for modality in MODALITIES)

    def index(self, n: int, modality: Modality) -> int:
        """Which slice of the training folder of `modality` is in sample `n`."""
        epoch, position = divmod(n, self.images)
        count = self.store.count("train", modality)
        repeat, place = divmod(position, count)
        return int(permutation(self.seed, modality, epoch, repeat, count)[place])

    def pair(self, n: int) -> tuple[int, int]:
        """Which CT and which MR slice are in sample `n`: those of the folders' orders, or at similar heights.

        With heights, the slice of the larger folder is that of its order, and its partner is drawn from all of the
        other folder that lie within `NEAR_MM` of its height; if none does, the nearest is taken.
        """
        if not self._heights:
            return self.index(n, "ct"), self.index(n, "mr")
        larger: Modality = max(MODALITIES, key=lambda m: self.store.count("train", m))
        first = self.index(n, larger)
        other: Modality = "mr" if larger == "ct" else "ct"
        distance = np.abs(self._heights[other] - self._heights[larger][first])
        near = np.flatnonzero(distance <= max(NEAR_MM, float(distance.min())))
        second = int(near[stream(self.seed, "partner", n).integers(near.size)])
        return (first, second) if larger == "ct" else (second, first)

    def __getitem__(self, n: int) -> Sample:
        """Sample number `n >= 0` of the run: x (CT) and y (MR), `(C, size, size)` in [-1, 1]."""
        if n < 0:
            raise IndexError(f"sample number must not be negative: got {n}")
        ct, mr = self.pair(n)
        return self._crop(n, "ct", ct), self._crop(n, "mr", mr)

    def _crop(self, n: int, modality: Modality, index: int) -> Tensor:
        codes = self.store.codes("train", modality, index)  # (H, W, C)
        draw = stream(self.seed, "crop", modality, n)
        top = int(draw.integers(codes.shape[0] - self.size + 1))
        left = int(draw.integers(codes.shape[1] - self.size + 1))
        mirror = bool(draw.integers(2))
        crop = from_codes(codes[top : top + self.size, left : left + self.size])
        if self.flip and mirror:
            crop = crop[:, ::-1]
        return torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))  # (C, size, size)


def loader(
    dataset: UnpairedSlices,
    batch_size: int,
    start_step: int,
    stop_step: int,
    workers: int,
    *,
    pin_memory: bool = False,
) -> DataLoader[Sample]:
    """Batches of the steps `start_step` to `stop_step - 1`, the same for any number of workers.

    Iterating draws nothing from torch's global generator.

    Raises:
        DataError: If the store is gone; an error in a worker reaches the caller as `RuntimeError`.
    """
    dataset.store.codes("train", "ct", 0)
    # A fork of a process that has threads (torch, progress bars) can hang, and Python 3.12 warns of
    # it; the fork server has none, and having imported torch once it starts a worker in 30 ms.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=range(start_step * batch_size, stop_step * batch_size),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        multiprocessing_context=context if workers else None,
        generator=torch.Generator(),
        pin_memory=pin_memory,
    )
