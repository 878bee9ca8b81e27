"""Grey values <-> [-1, 1], both ways: the only place where grey values change."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ctmr.types import CtWindow, Encoding, FloatArray, Matrix, Modality, Unit

# Knots of the CT windows: (HU, value in [-1, 1]).
CT_WINDOWS: dict[CtWindow, tuple[tuple[float, float], ...]] = {
    # The whole range of a 12-bit scanner (DICOM PS3.3 C.11.1.1.2 gives HU; 4096 levels from -1024).
    "wide": ((-1024.0, -1.0), (3071.0, 1.0)),
    # The radiologist's brain window: width 80, level 40. Not invertible outside.
    "brain": ((0.0, -1.0), (80.0, 1.0)),
    # Half of [-1, 1] for -100..200 HU (fat, brain, blood), most of the rest for bone up to 2000 HU.
    "piecewise": ((-1024.0, -1.0), (-100.0, -0.7), (200.0, 0.3), (2000.0, 0.98), (3071.0, 1.0)),
}


@dataclass(frozen=True)
class Intensity:
    """A monotone piecewise-linear map between a file's grey values and [-1, 1].

    Attributes:
        unit: Of the grey values.
        values: Grey values at the knots, strictly increasing.
        levels: Values in [-1, 1] at the knots, strictly increasing, from -1 to 1.
        percentiles: Where set, a scan that comes in is mapped by these percentiles of its own head (`fitted`), and
            `values` are for scans that go out.
    """

    unit: Unit
    values: tuple[float, ...]
    levels: tuple[float, ...] = (-1.0, 1.0)
    percentiles: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if len(self.values) != len(self.levels) or len(self.values) < 2:
            raise ValueError(
                f"values and levels must pair, at least two: got {self.values!r} and {self.levels!r}"
            )
        steps = np.concatenate([np.diff(self.values), np.diff(self.levels)])
        if not np.all((steps > 0) & np.isfinite(steps)):
            raise ValueError(
                "knots must be finite and increase strictly:"
                f" got {self.values!r} and {self.levels!r}"
            )
        if self.levels[0] != -1.0 or self.levels[-1] != 1.0:
            raise ValueError(f"levels must run from -1 to 1: got {self.levels!r}")

    @property
    def low(self) -> float:
        """Grey value of -1, and of everything below."""
        return self.values[0]

    @property
    def high(self) -> float:
        """Grey value of 1, and of everything above."""
        return self.values[-1]

    def to_unit(self, array: FloatArray) -> FloatArray:
        """Grey values of any shape -> [-1, 1]; values outside the range are clipped."""
        return _mapped(array, self.values, self.levels)

    def from_unit(self, array: FloatArray) -> FloatArray:
        """Values in [-1, 1] of any shape -> grey values; values outside [-1, 1] are clipped."""
        return _mapped(array, self.levels, self.values)

    def fitted(self, head: FloatArray) -> "Intensity":
        """The map for a scan with these values in its head: itself, or with the ends at their percentiles."""
        if self.percentiles is None:
            return self
        low, high = (float(value) for value in np.percentile(head, self.percentiles))
        return replace(self, values=(low, max(high, low + 1e-6 * max(1.0, abs(low)))))

    def clipped_share(self, array: FloatArray) -> float:
        """Share of grey values outside the range, which `to_unit` clips."""
        return float(((array < self.low) | (array > self.high)).mean())


def _mapped(array: FloatArray, knots: Sequence[float], values: Sequence[float]) -> FloatArray:
    """As `numpy.interp`, in float32; one straight line, which most maps are, in a fifth of the time."""
    if len(knots) > 2:
        return np.interp(array, knots, values).astype(np.float32)
    (start, end), (low, high) = knots, values
    mapped: Matrix = np.clip(array, start, end, dtype=np.float64)
    mapped -= start
    mapped *= (high - low) / (end - start)
    mapped += low
    return mapped.astype(np.float32)


Intensities = dict[Modality, dict[Encoding, Intensity]]


# MR have no accepted unit: each volume that comes in is mapped by percentiles of its head, what goes out has 1000 where
# those had their upper percentile.
MR_UNITS = Intensity("MR", (0.0, 1000.0), percentiles=(0.5, 99.5))
# A CT volume without HU is mapped as an MR is.
# An MR picture of another depth than a model knows, or a test picture of another than the training's, is mapped by its own.
PICTURES: dict[Encoding, Intensity] = {
    "8-bit": Intensity("grey", (0.0, 255.0), percentiles=(0.05, 99.95)),
    "16-bit": Intensity("grey", (0.0, 65535.0), percentiles=(0.05, 99.95)),
}
UNITLESS: dict[Encoding, Intensity] = {"MR": MR_UNITS, "grey": replace(MR_UNITS, unit="grey")}


def ct_window(name: CtWindow) -> Intensity:
    """The CT window of that name, in HU."""
    knots = CT_WINDOWS[name]
    return Intensity("HU", tuple(hu for hu, _ in knots), tuple(level for _, level in knots))
