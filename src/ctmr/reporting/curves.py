"""Curves of a run: losses, and the figures of its evaluations. Import it where a figure is drawn."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ctmr.reporting.figures import DPI
from ctmr.results import EvaluationLine
from ctmr.system.contained import fonts_in_cache

with fonts_in_cache():
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

POINTS = 2000  # of a drawn curve
SMOOTHING = 80  # a curve is averaged over a fortieth of its length
# Label, and a colour of Okabe and Ito's palette for the colour-blind.
CURVES = {
    "loss_g": ("total  (4)", "#333333"),
    "gan": ("L_GAN  (1)", "#0072B2"),
    "cycle": ("L_cyc  (2)", "#D55E00"),
    "identity": ("L_identity  (3)", "#009E73"),
    "structure": ("structure term, not in the paper", "#CC79A7"),
    "truth": ("rendered pairs, not in the paper", "#E69F00"),
    "half_real": ("half-real pairs, not in the paper", "#56B4E9"),
    "pairs": ("registered pairs, not in the paper", "#999999"),
    "loss_d_ct": ("discriminator loss  (5)", "#0072B2"),
    "loss_d_mr": ("discriminator loss  (5)", "#0072B2"),
}
# Figures of evaluations that are drawn where they are known.
EVALUATED = {
    "mae": "MAE",
    "ssim": "SSIM",
    "kernel": "kernel distance",
    "structure_kept": "structure kept",
    "cycle_error": "cycle error",
}
PARTS = ("gan", "cycle", "identity", "structure", "truth", "half_real", "pairs")
CHANCE = 0.25  # equation (5) where D says 0.5 of every image: 1/2 (0.25 + 0.25)


def loss_curves(rows: Sequence[Mapping[str, float]]) -> dict[str, Figure]:
    """Figures 8 to 10 of Li 2023 from the rows of `log.jsonl`, under their file names."""
    curves = {"losses_generators.png": _generator_curves(rows)}
    for modality, name in (("ct", "CT"), ("mr", "MRI")):
        if _is_used(rows, f"loss_d_{modality}"):  # not in a training without an adversary
            key = f"loss_d_{modality}"
            curves[f"losses_D_{modality}.png"] = _discriminator_curve(rows, key, name)
    return curves


def evaluation_curves(lines: Sequence[EvaluationLine], best: int) -> Figure:
    """For each direction, how the figures of the evaluations went; a dotted line marks the step that is kept.

    Args:
        lines: Of `evaluations.jsonl`, at least one.
        best: A step of them.
    """
    directions = lines[-1].directions
    shown = [key for key in EVALUATED if any(key in figures for figures in directions.values())]
    figure = Figure(figsize=(8, 1.9 * len(shown) + 0.6), dpi=DPI, layout="constrained")
    axes = figure.subplots(len(shown), len(directions), squeeze=False, sharex=True)
    for column, direction in enumerate(directions):
        for axis, key in zip(axes[:, column], shown, strict=True):
            values = [line.directions.get(direction, {}).get(key, np.nan) for line in lines]
            axis.plot([line.step for line in lines], values, color="#0072B2", marker="o", ms=3)
            axis.axvline(best, color="0.35", linestyle=":")
            if key == "kernel":  # of an untrained model it is astronomical
                axis.set_yscale("symlog")
            axis.set_ylabel(EVALUATED[key])
            axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0, column].set_title(direction, loc="left", fontweight="bold")
        axes[-1, column].set_xlabel("step; dotted: kept as best")
    return figure


def _generator_curves(rows: Sequence[Mapping[str, float]]) -> Figure:
    figure = Figure(figsize=(8, 7.4), dpi=DPI, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    _finish(above, _draw_curve(above, rows, "loss_g"))
    used = [key for key in PARTS if _is_used(rows, key)] or PARTS[:2]
    _finish(below, max(_draw_curve(below, rows, key) for key in used))
    above.set_title("Generators", loc="left", fontweight="bold")
    below.set_xlabel("step")
    _epochs_on_top(above, rows)
    return figure


def _is_used(rows: Sequence[Mapping[str, float]], key: str) -> bool:
    """Whether a loss is anywhere but zero."""
    return bool(np.nan_to_num(_column(rows, key)).any())


def _discriminator_curve(rows: Sequence[Mapping[str, float]], key: str, modality: str) -> Figure:
    figure = Figure(figsize=(8, 3.6), dpi=DPI, layout="constrained")
    axis = figure.subplots()
    top = _draw_curve(axis, rows, key)
    axis.axhline(
        CHANCE, color="0.35", linestyle=":", label="0.25: cannot tell real from translated"
    )
    _finish(axis, max(top, CHANCE))
    axis.set_title(f"Discriminator of {modality}", loc="left", fontweight="bold")
    axis.set_xlabel("step")
    _epochs_on_top(axis, rows)
    return figure


def _draw_curve(axis: Axes, rows: Sequence[Mapping[str, float]], key: str) -> float:
    """A faint line as logged, a moving average on top; the height it needs, single spikes cut."""
    steps, values = _column(rows, "step"), _column(rows, key)
    mean = _moving_average(values, len(values) // SMOOTHING)
    thin = slice(None, None, max(1, len(values) // POINTS))
    label, colour = CURVES[key]
    if len(values) >= SMOOTHING:
        axis.plot(steps[thin], values[thin], color=colour, alpha=0.25, linewidth=0.7)
    marker = "o" if len(values) == 1 else ""
    axis.plot(steps[thin], mean[thin], color=colour, linewidth=1.6, marker=marker, label=label)
    known = values[np.isfinite(values)]
    return max(float(np.percentile(known, 99.5)), float(np.nanmax(mean))) if len(known) else 0.0


def _epochs_on_top(axis: Axes, rows: Sequence[Mapping[str, float]]) -> None:
    """A second x axis that marks the steps at which whole epochs begin, where epochs are known."""
    steps, epochs = _column(rows, "step"), _column(rows, "epoch")
    if not np.isfinite(epochs).all() or not len(epochs) or epochs[-1] - epochs[0] < 1:
        return
    whole = MaxNLocator(nbins=10, integer=True).tick_values(epochs[0], epochs[-1])
    whole = whole[(whole >= epochs[0]) & (whole <= epochs[-1])]
    top = axis.secondary_xaxis("top")
    top.set_xticks(steps[np.searchsorted(epochs, whole)], [f"{epoch:.0f}" for epoch in whole])
    top.set_xlabel("epoch")


def _finish(axis: Axes, top: float) -> None:
    """A frame from 0 to a quarter above the curves, where the legend stands."""
    axis.set_ylim(0, 1.25 * top or 1)
    axis.margins(x=0.01)
    axis.set_xlim(left=0)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="upper right", ncols=3)


def _column(rows: Sequence[Mapping[str, float]], key: str) -> NDArray[np.float64]:
    return np.array([row.get(key, np.nan) for row in rows], dtype=np.float64)


def _moving_average(values: NDArray[np.float64], half: int) -> NDArray[np.float64]:
    """The mean of the finite values up to `half` to both sides of each, evenly fewer near the ends."""
    known = np.isfinite(values)
    total = np.cumsum(np.append(0, np.where(known, values, 0)))
    count = np.cumsum(np.append(0, known))
    at = np.arange(len(values))
    reach = np.minimum(half, np.minimum(at, at[::-1]))
    low, high = at - reach, at + reach + 1
    with np.errstate(invalid="ignore"):  # 0 / 0 where nothing is finite
        return np.asarray((total[high] - total[low]) / (count[high] - count[low]))
