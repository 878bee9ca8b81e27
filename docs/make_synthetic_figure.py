"""Draw the pictures of docs/concepts/synthetic-heads.md.

    python docs/make_synthetic_figure.py
    python docs/make_synthetic_figure.py DATA/volumes/nifti

The first draws synthetic heads alone; the second, which needs nibabel and a folder with the free
templates scct.nii, ch2_t1.nii.gz and T2w.nii.gz, also draws them beside those templates.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ctmr.synthetic.head import Head, synthesise_head
from ctmr.synthetic.tissues import LABELS

IMAGES = Path(__file__).parent / "images"
BRAIN_WINDOW, BONE_WINDOW = (-10.0, 80.0), (-1000.0, 1700.0)
Panel = tuple[np.ndarray, tuple[float, float]]


def mr_window(head: Head) -> tuple[float, float]:
    """From air to a little above the brightest part of the brain."""
    brain = np.isin(head.labels, [LABELS.index(name) for name in ("grey matter", "white matter")])
    return 0.0, 1.25 * float(np.percentile(head.mr[brain], 98))


def draw(rows: list[list[Panel]], titles: list[str], path: Path) -> None:
    """A grid of images (x, y), patient's left on the right as radiologists see it."""
    figure = Figure((1.5 * len(titles), 1.85 * len(rows)), facecolor="black")
    for r, row in enumerate(rows):
        for c, (image, (low, high)) in enumerate(row):
            axes = figure.add_subplot(len(rows), len(titles), r * len(titles) + c + 1)
            axes.imshow(image[::-1].T, cmap="gray", origin="lower", vmin=low, vmax=high)
            axes.set_axis_off()
            if r == 0:
                axes.set_title(titles[c], color="white", fontsize=8)
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.96, 0.02, 0.02)
    figure.savefig(path, dpi=100)


def pair(seed: int, **options: object) -> tuple[Head, Head]:
    """One subject as T1 and T2."""
    one = synthesise_head(seed, sequence="t1", **options)  # type: ignore[arg-type]
    return one, synthesise_head(seed, sequence="t2", **options)  # type: ignore[arg-type]


def panels(t1: Head, t2: Head, plane: tuple[slice | int, ...]) -> list[Panel]:
    """CT in two windows, T1 and T2 of one plane."""
    return [
        (t1.ct[plane], BRAIN_WINDOW),
        (t1.ct[plane], BONE_WINDOW),
        (t1.mr[plane], mr_window(t1)),
        (t2.mr[plane], mr_window(t2)),
    ]


def draw_heads() -> None:
    """Three subjects, the third with all four lesions, each at four heights."""
    rows = []
    for seed, lesions in ((0, ()), (14, ()), (9, ("bleed", "infarct", "tumour", "calcification"))):
        t1, t2 = pair(seed, shape=(190, 230, 150), lesions=lesions)
        heights = [int(k) for k in (24, 62, 100)]
        if lesions:
            z = [t1.lesions[n].centre_mm[2] - t1.affine[2, 3] for n in (0, 1, 2)]
            heights = [round(float(k)) for k in z]
        rows += [panels(t1, t2, (slice(None), slice(None), k)) for k in heights]
    titles = ["CT, brain window", "CT, bone window", "T1", "T2"]
    across = [row_a + row_b + row_c for row_a, row_b, row_c in zip(*[iter(rows)] * 3, strict=True)]
    draw(across, titles * 3, IMAGES / "synthetic_heads.png")


def hu_from_cormack(c: np.ndarray) -> np.ndarray:
    """HU of the template's units, which stretch -100 to 100 HU elevenfold (Rorden et al. 2012)."""
    return np.where(c <= 900, c - 1000, np.where(c <= 3100, (c - 900) / 11 - 100, c - 3000))


def draw_beside_templates(folder: Path) -> None:
    """Axial planes and a sagittal one of a synthetic head and of the free templates."""
    import nibabel

    def load(name: str) -> np.ndarray:
        image = nibabel.as_closest_canonical(nibabel.load(folder / name))
        return np.asarray(image.get_fdata(), np.float32)

    t1, t2 = pair(2, shape=(180, 216, 180))
    ct, ch2, t2w = hu_from_cormack(load("scct.nii")), load("ch2_t1.nii.gz"), load("T2w.nii.gz")
    mr_windows = [(0.0, float(np.percentile(v[v > v.mean()], 99))) for v in (ch2, t2w)]
    rows: list[list[Panel]] = []
    for ours, c, one, two in ((44, 17, 32, 23), (84, 38, 75, 37), (122, 54, 108, 49)):
        brain, _, mine_t1, mine_t2 = panels(t1, t2, (slice(None), slice(None), ours))
        rows.append(
            [
                brain,
                (ct[:, :, c], BRAIN_WINDOW),
                mine_t1,
                (ch2[:, :, one], mr_windows[0]),
                mine_t2,
                (t2w[:, :, two], mr_windows[1]),
            ]
        )
    _, bone, mine_t1, mine_t2 = panels(t1, t2, (94, slice(None), slice(None)))
    rows.append(
        [
            bone,
            (ct[47], BONE_WINDOW),
            mine_t1,
            (ch2[93], mr_windows[0]),
            mine_t2,
            (np.repeat(t2w[108], 2, axis=1), mr_windows[1]),
        ]
    )
    titles = ["synthetic CT", "CT template", "synthetic T1", "Colin 27 T1"]
    titles += ["synthetic T2", "T2 sample"]
    draw(rows, titles, IMAGES / "synthetic_templates.png")


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    draw_heads()
    if len(sys.argv) > 1:
        draw_beside_templates(Path(sys.argv[1]))
