"""What one process needs of the others to do its part of a step; alone it needs nothing."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn


class Ranks(Protocol):
    """The processes that do each step together, each with an equal part of its images."""

    @property
    def part(self) -> tuple[int, int]:
        """Which of how many parts this process has."""

    def gathered(self, images: Tensor) -> Tensor:
        """The images `(B, C, H, W)` of all processes, in the order of the samples."""

    def own(self, images: Tensor) -> Tensor:
        """This process's part of the images of all."""

    def average_gradients(self, weights: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes: that of the whole step."""

    def means(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each value, detached: its mean over the processes."""


class Alone:
    """One process, which has the whole step."""

    part = (0, 1)

    def gathered(self, images: Tensor) -> Tensor:
        """The images as they are."""
        return images

    def own(self, images: Tensor) -> Tensor:
        """The images as they are."""
        return images

    def average_gradients(self, weights: Sequence[nn.Parameter]) -> None:
        """Nothing is to be done."""

    def means(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each value, detached."""
        return {name: value.detach() for name, value in values.items()}


ALONE = Alone()
