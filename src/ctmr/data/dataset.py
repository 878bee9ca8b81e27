"""Unpaired slices from the store: sample n of a run is a pure function of the seed and n."""

import functools
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from ctmr.config import DataConfig
from ctmr.data.heights import Heights
from ctmr.data.store import Store, from_codes
from ctmr.errors import CtmrError, ResourceError, UsageError
from ctmr.system.parallel import serve, worker_context
from ctmr.system.rng import stream
from ctmr.types import MODALITIES, Modality

Sample = tuple[Tensor, Tensor]
GRACE_S = 5.0
MAX_TMPDIR_BYTES = 107 - len("/pymp-01234567/listener-01234567")  # Linux: sockets have 107
SAME_HEIGHT_MM = 6.0  # heights that count as similar


@functools.lru_cache(maxsize=4)  # of both folders, across the end of an epoch
def permutation(
    seed: int, modality: Modality, epoch: int, repeat: int, count: int
) -> NDArray[np.uint32]:
    """The order in which one folder is walked; the smaller folder is walked anew in each repeat."""
    order = stream(seed, "order", modality, epoch, repeat).permutation(count).astype(np.uint32)
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
        self._match_heights = config.match_heights and store.manifest.heights
        self._heights: Heights | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the heights, which a loader worker reads itself."""
        return self.__dict__ | {"_heights": None}

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
        other folder that lie within `SAME_HEIGHT_MM` of its height; if none does, the nearest is taken.
        """
        if not self._match_heights:
            return self.index(n, "ct"), self.index(n, "mr")
        larger: Modality = max(MODALITIES, key=lambda m: self.store.count("train", m))
        first = self.index(n, larger)
        other: Modality = "mr" if larger == "ct" else "ct"
        if self._heights is None:
            self._heights = Heights(self.store.heights_mm("train", other))
        height_mm = self.store.height_mm("train", larger, first)
        second = self._heights.near(height_mm, SAME_HEIGHT_MM, stream(self.seed, "partner", n))
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


class Samples(Protocol):
    """A dataset of a store's slices."""

    store: Store

    def __getitem__(self, n: int) -> Any:
        """Sample number `n >= 0` of the run."""


class _Fetched(Dataset[Any]):
    """The samples of a dataset; an error is handed over as one, since `DataLoader` keeps its text alone."""

    def __init__(self, dataset: Samples) -> None:
        self._dataset = dataset

    def __getitem__(self, n: int) -> Any:
        try:
            return self._dataset[n]
        except CtmrError as error:
            return error


def _collate(samples: list[Any]) -> Any:
    """A batch, or the first error among its samples."""
    errors = [sample for sample in samples if isinstance(sample, CtmrError)]
    return errors[0] if errors else default_collate(samples)


def _begin_worker(parent: int, _: int) -> None:
    serve(parent)


def loader(
    dataset: Samples,
    batch_size: int,
    start_step: int,
    stop_step: int,
    workers: int,
    *,
    pin_memory: bool = False,
    part: tuple[int, int] = (0, 1),
) -> Iterator[Any]:
    """Batches of the steps `start_step` to `stop_step - 1`, the same for any number of workers.

    Iterating draws nothing from torch's global generator. `part` says which of how many equal parts of each batch is wanted.

    Raises:
        DataError: If the store is gone, now or later, in a worker too.
        UsageError: If the path for temporary files is too long for the socket of workers.
        ResourceError: While iterating, if a worker has died.
    """
    dataset.store.codes("train", "ct", 0)
    temporary = tempfile.gettempdir()
    if workers and len(os.fsencode(temporary)) > MAX_TMPDIR_BYTES:
        raise UsageError(
            f"loader workers need a path for temporary files of at most {MAX_TMPDIR_BYTES} bytes",
            file=temporary,
            fix="set TMPDIR to a shorter path, or train.workers=0",
        )
    # Having imported torch once, the fork server starts a worker in 30 ms.
    context = worker_context(__name__)
    own = batch_size // part[1]
    firsts = (step * batch_size + part[0] * own for step in range(start_step, stop_step))
    batches = DataLoader(
        _Fetched(dataset),
        batch_sampler=([*range(first, first + own)] for first in firsts),
        num_workers=workers,
        collate_fn=_collate,
        prefetch_factor=4 if workers else None,
        multiprocessing_context=context if workers else None,
        worker_init_fn=functools.partial(_begin_worker, os.getpid()),
        generator=torch.Generator(),
        pin_memory=pin_memory,
    )
    return _iterate(batches, start_step)


def _iterate(batches: DataLoader[Any], step: int) -> Iterator[Any]:
    """The batches from `step` on; errors of workers come as they were, their death as a `ResourceError`."""
    others, workers = multiprocessing.active_children(), list[BaseProcess]()
    try:
        for batch in batches:
            if not workers:
                workers = [
                    worker for worker in multiprocessing.active_children() if worker not in others
                ]
            if isinstance(batch, CtmrError):
                raise batch
            yield batch
            step += 1
    except (RuntimeError, OSError, EOFError) as error:  # or its pipe is torn
        wait(
            [worker.sentinel for worker in workers], GRACE_S
        )  # its end may be told later than the pipe's
        dead = [str(worker.pid) for worker in workers if not worker.is_alive()]
        if not dead:
            raise
        raise ResourceError(
            f"the loader worker {', '.join(dead)} died before step {step + 1}, perhaps for want of"
            " memory",
            fix="set train.workers=0 or free memory, and go on with --resume",
        ) from error
