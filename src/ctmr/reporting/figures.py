"""What a run and its results look like: sample grids and comparisons. Import it where a figure is drawn."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ctmr.reporting.preview import SOFTWARE
from ctmr.system.contained import fonts_in_cache
from ctmr.system.ownership import write_own
from ctmr.types import FloatArray

with fonts_in_cache():
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.font_manager import findfont, get_font

WARNING = "research use only - translated images can add or remove disease"
DPI = 100

Images = Sequence[FloatArray] | FloatArray

# Sizes in pixels.
CELL = 200  # a smaller image is drawn with whole pixels repeated until it is this wide
GAP = 4
LABELS = 92
HEADER = 36
FOOTER = 28
MAX_LABEL = 36  # characters of a label


@dataclass(frozen=True, eq=False)
class Case:
    """One row of `comparison`, images (H, W).

    Attributes:
        label: Name at the left.
        source: What was translated, in its own unit.
        result: The translation.
        truth: What it should be, in the unit of `result`.
        unit: Unit of `result`, `truth` and their difference.
        source_window: Values shown black and white in `source`.
        window: The same for `result` and `truth`.
    """

    label: str
    source: FloatArray
    result: FloatArray
    truth: FloatArray
    unit: str
    source_window: tuple[float, float]
    window: tuple[float, float]


def sample_grid(ct: Images, ct_to_mr: Images, mr: Images, mr_to_ct: Images, title: str) -> Figure:
    """Figures 4 to 7 of Li 2023: rows from top to bottom CT, CT to MRI, MRI, MRI to CT.

    Args:
        ct: Images (N, H, W) or (N, H, W, 3) in [-1, 1].
        ct_to_mr: Their translations, column by column.
        mr: The same; N may be another.
        mr_to_ct: Their translations.
        title: For example `step 5000`.

    Raises:
        ValueError: If the images differ in size or there is none.
    """
    rows = [_grey_levels(images) for images in (ct, ct_to_mr, mr, mr_to_ct)]
    if len({row.shape[1:] for row in rows}) != 1 or not all(len(row) for row in rows):
        raise ValueError(f"expected images of one size: got {[row.shape for row in rows]}")
    height, width = rows[0].shape[1:3]
    columns = max(len(row) for row in rows)
    mosaic = np.zeros((4 * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * (height + GAP), j * (width + GAP)
            mosaic[top : top + height, left : left + width] = image
    return _mosaic_figure(mosaic, title)


def comparison(cases: Sequence[Case]) -> Figure:
    """A row for each case: source, result, truth and absolute error, with a bar for its colours.

    Cases of one unit share the scale of the error.

    Raises:
        ValueError: If there is no case.
    """
    if not cases:
        raise ValueError("expected at least one case: got none")
    figure = Figure(figsize=(10.6, 2.45 * len(cases) + 0.7), dpi=DPI, layout="constrained")
    axes = figure.subplots(len(cases), 4, squeeze=False)
    limits = {
        unit: _error_limit([case for case in cases if case.unit == unit])
        for unit in {case.unit for case in cases}
    }
    for row, case in zip(axes, cases, strict=True):
        _comparison_row(figure, list(row), case, limits[case.unit])
    for axis, name in zip(axes[0], ("source", "result", "truth", "absolute error"), strict=True):
        axis.set_title(name, fontsize=11)
    figure.supxlabel(WARNING, fontsize=8.5, color="0.35")
    return figure


def save(figure: Figure, path: Path, dpi: float | None = None, *, overwrite: bool = False) -> None:
    """Write a PNG whole or not at all, equal bytes for equal figures; None takes the figure's own dpi.

    Raises:
        OutputError: If it cannot be written, or a file that ctmr did not write is there (without `overwrite`).
    """
    drawn = io.BytesIO()
    figure.savefig(
        drawn,
        format="png",
        dpi="figure" if dpi is None else dpi,
        pil_kwargs={"compress_level": 1},
    )
    picture = Image.open(drawn).convert("RGB")
    grey = picture.convert("L")
    if grey.convert("RGB").tobytes() == picture.tobytes():
        picture = grey  # half the bytes: a report embeds many grids
    text = PngInfo()
    text.add_text("Software", SOFTWARE)
    content = io.BytesIO()
    picture.save(content, format="png", pnginfo=text)
    write_own(path, content.getvalue(), overwrite=overwrite)


def _grey_levels(images: Images) -> NDArray[np.uint8]:
    """[-1, 1] -> 0..255, as (N, H, W, 3)."""
    levels = np.rint((np.clip(np.asarray(images), -1, 1) + 1) * 127.5).astype(np.uint8)
    return levels if levels.ndim == 4 else np.repeat(levels[..., None], 3, axis=-1)


def _mosaic_figure(mosaic: NDArray[np.uint8], title: str) -> Figure:
    """The four rows on black with their names, each image pixel on k x k pixels of the figure."""
    height, width = mosaic.shape[:2]
    cell = (height + GAP) / 4
    k = max(1, round(CELL / cell))
    full_width = max(LABELS + k * width + GAP, 520)
    full_height = HEADER + k * height + FOOTER
    figure = Figure(figsize=(full_width / DPI, full_height / DPI), dpi=DPI, facecolor="black")
    box = (
        LABELS / full_width,
        FOOTER / full_height,
        k * width / full_width,
        k * height / full_height,
    )
    axis = figure.add_axes(box)
    axis.imshow(mosaic, interpolation="none", aspect="auto")
    axis.set_axis_off()
    for i, name in enumerate(("CT", "CT to MRI", "MRI", "MRI to CT")):
        y = 1 - (HEADER + k * (i + 0.5) * cell) / full_height
        figure.text((LABELS - 10) / full_width, y, name, color="0.9", ha="right", va="center")
    y = 1 - HEADER / 2 / full_height
    figure.text(
        LABELS / full_width, y, _drawable(title), color="0.9", va="center", parse_math=False
    )
    y = FOOTER / 2 / full_height
    figure.text(LABELS / full_width, y, WARNING, color="0.6", va="center", fontsize=8)
    return figure


def _error_limit(cases: Sequence[Case]) -> float:
    """The error that 99 % of the pixels stay below."""
    errors = np.concatenate([np.abs(case.result - case.truth).ravel() for case in cases])
    return max(float(np.percentile(errors, 99)), 1e-6)


def _comparison_row(figure: Figure, axes: list[Axes], case: Case, limit: float) -> None:
    shown = (
        (case.source, case.source_window),
        (case.result, case.window),
        (case.truth, case.window),
    )
    for axis, (image, (low, high)) in zip(axes, shown, strict=False):
        axis.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    error = axes[3].imshow(
        np.abs(case.result - case.truth),
        cmap="inferno",
        vmin=0,
        vmax=limit,
        interpolation="nearest",
    )
    figure.colorbar(error, ax=axes[3], label=case.unit, extend="max", shrink=0.9)
    axes[0].set_ylabel(_drawable(case.label), fontsize=9, parse_math=False)
    for axis in axes:
        axis.set(xticks=[], yticks=[])


def _drawable(text: str) -> str:
    """The text, its middle cut if it is long, without characters that the font lacks: a file name may hold any."""
    font = get_font(findfont("DejaVu Sans"))
    if len(text) > MAX_LABEL:
        text = f"{text[: MAX_LABEL // 2]}…{text[-MAX_LABEL // 2 + 1 :]}"
    return "".join(c if font.get_char_index(ord(c)) else "?" for c in text)
