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
from ctmr.store import MODALITIES, Modality, Store, from_codes

Sample = tuple[Tensor, Tensor]


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
        config: Size of the crop, and whether to mirror.
        seed: All randomness is a pure function of it and of the sample's number.
    """

    def __init__(self, store: Store, config: DataConfig, seed: int) -> None:
        self.store = store
        self.size = config.size
        self.flip = config.flip
        self.seed = seed

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

    def __getitem__(self, n: int) -> Sample:
        """Sample number `n >= 0` of the run: x (CT) and y (MR), `(C, size, size)` in [-1, 1]."""
        if n < 0:
            raise IndexError(f"sample number must not be negative: got {n}")
        return self._crop(n, "ct"), self._crop(n, "mr")

    def _crop(self, n: int, modality: Modality) -> Tensor:
        codes = self.store.codes("train", modality, self.index(n, modality))  # (H, W, C)
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
