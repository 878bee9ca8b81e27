"""Draw docs/images/pixel_sizes.png: one synthetic head with two pixel sizes, translated by one model.

    python docs/make_volume_figure.py RUN

RUN is a run trained on volumes (docs/how-to/nifti.md). Prints the mean absolute difference of the two translations.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ctmr import load_model, synthesise_head
from ctmr.imaging.volume import Volume, axial_slices

IMAGES = Path(__file__).parent / "images"
SIZES = ((0.5, 448), (1.0, 224))
HEIGHTS_MM = (85.0, 75.0, 65.0, 55.0)
WINDOW = (-200.0, 400.0)


def main() -> None:
    """Translate MR to CT at both pixel sizes, draw them and their difference."""
    model = load_model(sys.argv[1])
    rows = []
    for mm, side in SIZES:
        head = synthesise_head(
            101, shape=(side, side, 4), spacing_mm=(mm, mm, 5.0), heights_mm=HEIGHTS_MM
        )
        mr = Volume(head.mr, head.affine, "mr")
        ct = model.translate(mr, to="ct")
        rows.append((mm, *(axial_slices(v.array)[1] for v in (mr, ct)), head.mask))
    fine = rows[0][2].reshape(SIZES[1][1], 2, SIZES[1][1], 2).mean(axis=(1, 3))
    difference = fine - rows[1][2]
    inside = axial_slices(rows[1][3].astype(np.float32))[1] > 0
    error = float(np.abs(difference)[inside].mean())
    print(f"mean absolute difference in the head: {error:.1f} HU")
    figure = Figure(figsize=(10, 2.5), layout="constrained")
    pictures = [
        *((f"MR, {mm} mm", mr, (0, np.percentile(mr, 99.5))) for mm, mr, _, _ in rows),
        *((f"CT of it, {mm} mm", ct, WINDOW) for mm, _, ct, _ in rows),
        (f"difference (mean {error:.1f} HU)", difference, (-300, 300)),
    ]
    for axes, (title, picture, window) in zip(figure.subplots(1, 5), pictures, strict=True):
        axes.imshow(picture, cmap="gray", vmin=window[0], vmax=window[1])
        axes.set_title(title, fontsize=9)
        axes.axis("off")
    figure.text(0.01, 0.01, "synthetic head; research use only", fontsize=7)
    figure.savefig(IMAGES / "pixel_sizes.png", dpi=80)


if __name__ == "__main__":
    main()
