"""What a training shows of itself: sample grids, loss curves, TensorBoard events."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctmr.cyclegan.state import TrainState
from ctmr.data.store import Store
from ctmr.errors import UsageError
from ctmr.models.torch_engine import run_generator
from ctmr.training.run_folder import RunFolder
from ctmr.types import FloatArray, Modality, Split

logger = logging.getLogger(__name__)

COLUMNS = 4


class Samples:
    """Draws the same held-out images through the generators, in the form of the paper's figures 4 to 7."""

    def __init__(self, store: Store, folder: RunFolder, tensorboard: bool) -> None:
        self._folder = folder
        split: Split = "test" if all(store.count("test", m) for m in ("ct", "mr")) else "train"
        if split == "train":
            logger.warning("no test images: the sample grids show training images")
        self._ct = _middles(store, split, "ct")
        self._mr = _middles(store, split, "mr")
        self._writer = _event_writer(folder) if tensorboard else None

    def path(self, step: int) -> Path:
        """Where the grid of a step is."""
        return self._folder.samples / f"step_{step:06d}.png"

    def draw(self, state: TrainState) -> None:
        """Write `samples/step_XXXXXX.png`: rows CT, CT to MRI, MRI, MRI to CT."""
        from ctmr.reporting import figures

        ct_to_mr, mr_to_ct = state.translators()
        figure = figures.sample_grid(
            _drawable(self._ct),
            _drawable([run_generator(ct_to_mr, image) for image in self._ct]),
            _drawable(self._mr),
            _drawable([run_generator(mr_to_ct, image) for image in self._mr]),
            title=f"step {state.step}",
        )
        figures.save(figure, self.path(state.step))
        if self._writer is not None:
            self._writer.add_figure("samples", figure, state.step, close=False)

    def log(self, row: Mapping[str, float]) -> None:
        """Send a row of the log to TensorBoard, if asked for."""
        if self._writer is not None:
            for name, value in row.items():
                if name not in ("step", "epoch"):
                    self._writer.add_scalar(name, value, int(row["step"]))
            self._writer.flush()


def _spread(count: int) -> list[int]:
    """Up to `COLUMNS` indices, evenly over `count`."""
    wanted = min(COLUMNS, count)
    return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]


def _middles(store: Store, split: Split, modality: Modality) -> list[FloatArray]:
    """The middle squares of some slices, as large as a training crop (size, size, C) in [-1, 1]; of pairs, both."""
    size = store.manifest.size
    images = []
    for i in _spread(store.count(split, modality)):
        image = store.slice(split, modality, i)
        top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
        images.append(image[top : top + size, left : left + size])
    return images


def _drawable(images: list[FloatArray]) -> list[FloatArray]:
    """(H, W, 1) -> (H, W)."""
    return [image[..., 0] if image.shape[-1] == 1 else image for image in images]


def _event_writer(folder: RunFolder) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            "train.tensorboard needs the tensorboard package, which is not installed",
            fix="pip install 'ctmr[tensorboard]', or set train.tensorboard=false",
        ) from error
    return SummaryWriter(str(folder.path / "tensorboard"))
