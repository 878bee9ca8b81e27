#!/usr/bin/env python3
"""Measure the bundled model on rendered heads of label maps: contrasts, what was removed, lesions it has never seen.

    bundled.py contrasts|removed|lesions ANATOMIES [--state STATE] [--only NAME ...] [--slices N] [--out FILE.json]

STATE is a training state of train_bundled.py; without it the bundled model is measured. `--only` names the maps, those
that the training kept out. Errors are mean absolute ones in the head; each figure has a 95 % bootstrap interval over slices.

contrasts: MR -> CT in HU for each contrast, and the ratio to plain T1.
removed:   skull stripped, or face removed: the share of those voxels that come out as bone (above 300 HU).
lesions:   the kinds of the training, and kinds, shapes and contrasts kept out of it: an abscess (a dark core in a bright
           rim), a crescent under the skull, and old blood (bright in T1 and T2). One is counted where it changes the
           source by twice the roughness of its brain. It survives if the result differs from that of the same slice without it by half of what the truth
           does, with the right sign. Something is invented in a healthy slice where the result is off by more than
           25 HU (or 0.25 of white matter) over 50 mm2 in the brain.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from ctmr.cyclegan.losses import decoded
from ctmr.cyclegan.networks import Generator, UNet
from ctmr.data.known import TOP_OF_TRUE_MR
from ctmr.models.bundle import HEAD
from ctmr.models.folder import read_model
from ctmr.synthetic import pairs
from ctmr.synthetic.anatomies import CODE, Anatomy, cached_anatomies
from ctmr.synthetic.contrasts import Contrast, draw_signals
from ctmr.synthetic.pairs import BRAIN_CODES, Pair, render_pair
from ctmr.synthetic.planes import Plane, smooth
from ctmr.system.files import write_json
from ctmr.system.rng import stream
from ctmr.types import DIRECTIONS, Direction
from train_bundled import FILTERS, SHAPE, WINDOW, label_maps

Image = npt.NDArray[np.float32]
Translate = Callable[[Image], Image]
SEED = 1_000_000  # no sample of the training
CONTRASTS: tuple[Contrast, ...] = ("t1", "t1-agent", "t2", "flair", "pd")
ENOUGH_MM2 = 8000  # slices with less head are left out


def networks(state: Path | None) -> dict[str, Translate]:
    """Both directions as functions of an image in HU, or of an MR on its own scale, averaged with the mirror image."""
    found: dict[Direction, Generator] = {}
    if state is None:
        found = read_model(Path(HEAD)).generators
    else:
        kept = torch.load(state, weights_only=True)["averages"]
        for direction in DIRECTIONS:
            found[direction] = UNet(1, FILTERS).eval()
            found[direction].load_state_dict(kept[direction])

    def run(name: Direction, image: npt.NDArray[np.floating[Any]]) -> torch.Tensor:
        with torch.inference_mode():
            x = torch.from_numpy(image.astype(np.float32))[None, None]
            net = found[name]
            made: torch.Tensor = ((net(x) + net(x.flip(3)).flip(3)) / 2)[0, 0]
            return made

    def to_ct(mr: Image) -> Image:
        top = np.quantile(mr[mr > 0.1 * np.quantile(mr, 0.99)], 0.985)
        return np.asarray(decoded(run("mr-to-ct", (2 * mr / top - 1).clip(-1, 1)), WINDOW))

    def to_mr(ct: Image) -> Image:
        coded = np.interp(ct, [hu for hu, _ in WINDOW], [level for _, level in WINDOW])
        return np.asarray((run("ct-to-mr", coded) + 1) / 2 * TOP_OF_TRUE_MR)

    return {"ct": to_ct, "mr": to_mr}


def interval(values: Sequence[float]) -> list[float]:
    """Mean and 95 % bootstrap interval."""
    rows = np.asarray(values, float)
    draws = np.random.default_rng(0).integers(0, len(rows), (2000, len(rows)))
    low, high = np.percentile(rows[draws].mean(axis=1), [2.5, 97.5])
    return [round(float(value), 3) for value in (rows.mean(), low, high)]


def slices(heads: Sequence[Anatomy], count: int) -> list[int]:
    """Numbers of samples that show enough of a whole head."""
    found: list[int] = []
    number = 0
    while len(found) < count:
        with settings(LESION_SHARE=0.0, _remove=lambda *_: None):
            pair = render_pair(heads, SHAPE, SEED, number)
        if pair.head.sum() * pair.pixel_mm**2 > ENOUGH_MM2:
            found.append(number)
        number += 1
    return found


class settings:
    """Replace names of `ctmr.synthetic.pairs` for a while."""

    def __init__(self, **changes: object) -> None:
        self.changes, self.before = changes, {name: getattr(pairs, name) for name in changes}

    def __enter__(self) -> None:
        for name, value in self.changes.items():
            setattr(pairs, name, value)

    def __exit__(self, *_: object) -> None:
        for name, value in self.before.items():
            setattr(pairs, name, value)


def contrasts(heads: Sequence[Anatomy], to: dict[str, Translate], count: int) -> dict[str, object]:
    """MAE in HU in the head, of each contrast of the same slices."""
    numbers = slices(heads, count)
    errors: dict[str, list[float]] = {}
    for contrast in CONTRASTS:
        same = {"LESION_SHARE": 0.0, "_remove": lambda *_: None}
        with settings(draw_contrast=lambda _, c=contrast: c, **same):
            for number in numbers:
                pair = render_pair(heads, SHAPE, SEED, number)
                error = np.abs(to["ct"](pair.mr) - pair.true_ct)
                errors.setdefault(contrast, []).append(float(error[pair.head].mean()))
    found = {contrast: interval(rows) for contrast, rows in errors.items()}
    ratios = {c: round(rows[0] / found["t1"][0], 3) for c, rows in found.items()}
    return {"slices": count, "mae_hu": found, "over_t1": ratios}


def removed(heads: Sequence[Anatomy], to: dict[str, Translate], count: int) -> dict[str, object]:
    """Share of removed voxels that come out as bone."""
    found: dict[str, object] = {}
    for name, stripped in (("stripped", 1.0), ("defaced", 0.0)):
        shares: list[float] = []
        number = 0
        while len(shares) < count:
            all_of_them = {"STRIPPED_SHARE": stripped, "DEFACED_SHARE": 1.0}
            with settings(LESION_SHARE=0.0, **all_of_them):
                gone = render_pair(heads, SHAPE, SEED, number)
            with settings(LESION_SHARE=0.0, _remove=lambda *_: None):
                whole = render_pair(heads, SHAPE, SEED, number)
            number += 1
            where = whole.head & ~ndimage.binary_dilation(gone.head, iterations=2)
            if where.sum() > 300 and gone.head.sum() > 2000:
                shares.append(float((to["ct"](gone.mr)[where] > 300).mean()))
        found[name] = interval(shares)
    return {"slices": count, "bone_share": found}


# -- lesions kept out of training --------------------------------------------------------------

Drawn = tuple[npt.NDArray[np.uint8], int]


def _trained(kind: str) -> Callable[..., Drawn]:
    """A lesion of one of the kinds of the training, as that draws it."""
    draws = pairs._with_lesion

    def draw(rng: np.random.Generator, tissue: npt.NDArray[np.uint8], plane: Plane) -> Drawn:
        with settings(LESION_KINDS=(kind,)):
            return draws(rng, tissue, plane)

    return draw


def _abscess(rng: np.random.Generator, tissue: npt.NDArray[np.uint8], plane: Plane) -> Drawn:
    """A core like an infarct in a rim like a tumour, 6 to 14 mm."""
    away, brain = _distance(rng, tissue, plane)
    radius = rng.uniform(6, 14)
    out = tissue.copy()
    out[brain & (away < radius)] = CODE["tumour"]
    out[brain & (away < radius - 3)] = CODE["infarct"]
    return out, CODE["infarct"]


def _crescent(rng: np.random.Generator, tissue: npt.NDArray[np.uint8], plane: Plane) -> Drawn:
    """A layer of blood of 5 to 11 mm between skull and brain on one side."""
    brain = np.isin(tissue, BRAIN_CODES)
    x = np.arange(tissue.shape[2])[None, :] - tissue.shape[2] / 2
    side = x > 15 if rng.uniform() < 0.5 else x < -15
    thick = rng.uniform(5, 11) + 0.6 * smooth(rng, tissue.shape[1:], 6)[0]
    filled = ndimage.binary_fill_holes(brain[len(brain) // 2])
    inner = ndimage.distance_transform_edt(filled) * plane.pixel_mm
    where = filled & side & (inner < thick)
    out = tissue.copy()
    out[brain & where[None]] = CODE["bleed"]
    return out, CODE["bleed"]


def _old_blood(rng: np.random.Generator, tissue: npt.NDArray[np.uint8], plane: Plane) -> Drawn:
    away, brain = _distance(rng, tissue, plane)
    out = tissue.copy()
    out[brain & (away < rng.uniform(7, 16))] = CODE["bleed"]
    return out, CODE["bleed"]


def _distance(
    rng: np.random.Generator, tissue: npt.NDArray[np.uint8], plane: Plane
) -> tuple[Image, npt.NDArray[np.bool_]]:
    brain = np.isin(tissue, BRAIN_CODES)
    deep = ndimage.binary_erosion(brain[len(brain) // 2], iterations=6)
    rows, columns = np.nonzero(deep if deep.sum() > 50 else brain[len(brain) // 2])
    place = int(rng.integers(len(rows)))
    y, x = np.mgrid[: tissue.shape[1], : tissue.shape[2]].astype(np.float32)
    flat = np.hypot(y - rows[place], x - columns[place]) * plane.pixel_mm
    away = np.sqrt(flat[None] ** 2 + plane.offsets_mm[:, None, None] ** 2)
    return away + 0.8 * smooth(rng, tissue.shape[1:], 24), brain


def _old_signals(rng: np.random.Generator, contrast: Contrast) -> npt.NDArray[np.float32]:
    """Signals in which a bleed is bright in T1 and in T2, as after weeks."""
    signals = np.asarray(draw_signals(rng, contrast))
    signals[CODE["bleed"]] = 1.7 * max(signals[CODE["white matter"]], signals[CODE["grey matter"]])
    return signals.astype(np.float32)


def lesions(heads: Sequence[Anatomy], to: dict[str, Translate], count: int) -> dict[str, object]:
    """Which lesions survive where the source shows them, and what is invented in healthy slices."""
    drawn = {kind: _trained(kind) for kind in pairs.LESION_KINDS}
    drawn |= {"abscess": _abscess, "crescent": _crescent, "old blood": _old_blood}
    table: dict[str, object] = {}
    for name, draw in drawn.items():
        survived: dict[str, list[float]] = {"ct": [], "mr": []}
        number = 0
        while min(len(rows) for rows in survived.values()) < count and number < 6 * count:
            ill, well = _twice(heads, name, draw, number)
            number += 1
            if ill is None or well is None:
                continue
            for target, source in (("ct", "mr"), ("mr", "ct")):
                verdict = _survives(ill, well, target, source, to[target])
                if verdict is not None and len(survived[target]) < count:
                    survived[target].append(verdict)
        table[name] = {
            target: {
                "survive": [sum(rows), len(rows)],
                "share": round(float(np.mean(rows)), 3) if rows else None,
            }
            for target, rows in survived.items()
        }
    invented: dict[str, list[float]] = {"ct": [], "mr": []}
    for number in slices(heads, count):
        with settings(LESION_SHARE=0.0, _remove=lambda *_: None):
            pair = render_pair(heads, SHAPE, SEED, number)
        for target, source in (("ct", "mr"), ("mr", "ct")):
            invented[target].append(_invents(pair, target, source, to[target]))
    table["invented"] = {target: [sum(rows), len(rows)] for target, rows in invented.items()}
    return table


def _twice(
    heads: Sequence[Anatomy], name: str, draw: Callable[..., Drawn], number: int
) -> tuple[Pair | None, Pair | None]:
    """A slice with a lesion and the same without, all else drawn alike; None where it shows too little brain."""
    contrast = CONTRASTS[number % len(CONTRASTS)]
    same: dict[str, Any] = {"LESION_SHARE": 1.0, "_remove": lambda *_: None}
    same["draw_contrast"] = lambda _: contrast
    if name == "old blood":
        same["draw_signals"] = _old_signals

    def ill(_: object, tissue: npt.NDArray[np.uint8], plane: Plane) -> Drawn:
        return draw(stream(SEED, name, number), tissue, plane)  # so that the other draws stay

    try:
        with settings(**same, _with_lesion=ill):
            first = render_pair(heads, SHAPE, SEED, number)
    except (ValueError, IndexError):  # no brain to put it in
        return None, None
    with settings(**same, _with_lesion=lambda _, tissue, __: (tissue, 0)):
        return first, render_pair(heads, SHAPE, SEED, number)


def _survives(
    ill: Pair, well: Pair, target: str, source: str, translate: Translate
) -> float | None:
    """1 if the lesion is in the result, 0 if not, None where source or truth do not show one."""
    truth = getattr(ill, f"true_{target}") - getattr(well, f"true_{target}")
    least = 6.0 if target == "ct" else 0.1
    where = np.abs(truth) > least
    if where.sum() * ill.pixel_mm**2 < 40:
        return None
    seen, before = getattr(ill, source), getattr(well, source)
    rough = (before - ndimage.gaussian_filter(before, 1.5))[_inside(well)]
    if not rough.size or abs(float((seen - before)[where].mean())) < 2 * float(rough.std()):
        return None
    made = translate(seen) - translate(before)
    wanted, found = float(truth[where].mean()), float(made[where].mean())
    return float(found * np.sign(wanted) > 0.5 * abs(wanted))


def _invents(pair: Pair, target: str, source: str, translate: Translate) -> float:
    made, truth = translate(getattr(pair, source)), getattr(pair, f"true_{target}")
    inside = _inside(pair)
    off = ndimage.gaussian_filter(made - truth, 1.5)
    labels, parts = ndimage.label((np.abs(off) > (25 if target == "ct" else 0.25)) & inside)
    sizes = np.bincount(labels.ravel())[1:] if parts else np.zeros(1)
    return float(sizes.max() * pair.pixel_mm**2 > 50)


def _inside(pair: Pair) -> npt.NDArray[np.bool_]:
    """Brain well within the skull."""
    brain = (pair.true_ct > 0) & (pair.true_ct < 100) & pair.head
    within: npt.NDArray[np.bool_] = ndimage.binary_fill_holes(pair.true_ct > 300) & brain
    return np.asarray(ndimage.binary_erosion(within, iterations=4))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("contrasts", "removed", "lesions"))
    parser.add_argument("anatomies", type=label_maps)
    parser.add_argument("--state", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--slices", type=int, default=60)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    heads = cached_anatomies(options.anatomies)
    heads = [head for head in heads if not options.only or head.name in options.only]
    measure = {"contrasts": contrasts, "removed": removed, "lesions": lesions}[options.what]
    found = {
        "maps": [head.name for head in heads],
        **measure(heads, networks(options.state), options.slices),
    }
    print(json.dumps(found, indent=1))
    if options.out is not None:
        write_json(options.out, found)


if __name__ == "__main__":
    main()
