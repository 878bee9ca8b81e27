"""The words that every room uses: modalities, directions, encodings, spacings, and the kinds of arrays."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Direction = Literal["ct-to-mr", "mr-to-ct"]
DIRECTIONS: tuple[Direction, Direction] = ("ct-to-mr", "mr-to-ct")

Modality = Literal["ct", "mr"]
NAMES: dict[Modality, str] = {"ct": "CT", "mr": "MR"}
MODALITIES: tuple[Modality, ...] = ("ct", "mr")
Matrix = NDArray[np.float64]
Spacing = tuple[float, float]  # mm between rows, mm between columns

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
Progress = Callable[[int, int], None]

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")

DIRECTION_TO: dict[Modality, Direction] = {"mr": "ct-to-mr", "ct": "mr-to-ct"}
TO: dict[Direction, Modality] = {direction: to for to, direction in DIRECTION_TO.items()}
OTHER: dict[Modality, Modality] = {"mr": "ct", "ct": "mr"}

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
CtWindow = Literal["wide", "brain", "piecewise"]
Unit = Literal["HU", "grey", "MR"]  # MR: arbitrary units of an MR volume
Encoding = Literal["HU", "8-bit", "16-bit", "MR", "grey"]  # grey: a CT volume without HU

Depth = Literal[8, 16]
WantedDevice = Literal["auto", "cpu", "cuda"]
