"""What is wrong with the pictures of a data folder: another modality, windows, marks, mixtures, and too few of something."""

import statistics
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ctmr.audit.inventory import Inventory
from ctmr.audit.scan_profile import Mark, Picture
from ctmr.imaging.appearance import Question, log_odds, log_odds_mr
from ctmr.imaging.descriptors import Descriptors
from ctmr.results import Finding
from ctmr.types import MODALITIES, NAMES, SPLITS, Level, Modality, Split

MIN_ODDS_OF_ERROR = 0.5  # log-odds of a wrong modality that are an error; from 0 on it is a warning
MIN_ODDS_NOT_AXIAL = 3.5  # log-odds; how rarely it errs is in docs/project/results.md
MIN_PICTURES = 3  # pictures of a folder from which it can be judged as a whole
MIN_SATURATED_SHARES = (0.2, 0.02)  # shares of the head at the lowest and at the highest value
MAX_IMBALANCE = 2.0  # training images of one modality for each of the other
MARKS: dict[Mark, tuple[str, str]] = {
    "frame": ("frame", "bright lines along the edge"),
    "letters": ("burnt_in_text", "letters or a ruler in the pixels, perhaps a name"),
    "colour": ("colour", "parts in colour: a colour bar, a logo or an overlay"),
}

Doubles = NDArray[np.float64]


def find_faults(inventory: Inventory, clusters: NDArray[np.int64]) -> list[Finding]:
    """All findings but copies and patients.

    Args:
        inventory: Of a data folder.
        clusters: (N,) of its pictures, see `leaks.clusters`.
    """
    pictures = inventory.pictures
    found = _modalities(inventory, clusters)
    for picture in pictures:
        if picture.descriptors is None:
            source, why = picture.source, "nothing like a head in it"
            # A volume without a head is refused by a training, an image is not.
            refused = source.kind != "image" and not source.reading.anyway
            level: Level = "error" if refused else "warning"
            found.append(Finding("blank", level, (picture.label,), why))
    for group in _by_folder(pictures):
        found += [*_saturated(group), *_marks(group), *_levels(group)]
        found += [*_sizes(group), *_modes(group), *_planes(group)]
    return [*found, *_counts(inventory)]


def _modalities(inventory: Inventory, clusters: NDArray[np.int64]) -> list[Finding]:
    """Images of the other modality, by what they look like; of volumes the header or the values said it."""
    seen = [
        (picture, descriptors, int(cluster))
        for picture, cluster in zip(inventory.pictures, clusters, strict=True)
        if (descriptors := picture.descriptors) is not None and picture.source.kind == "image"
    ]
    found, wrong = _folders_of_other(
        inventory, [(picture, descriptors) for picture, descriptors, _ in seen]
    )
    seen = [each for each in seen if _place(each[0]) not in wrong]
    if not seen:
        return found
    said_mr = np.array([picture.source.modality == "mr" for picture, _, _ in seen])
    looks = [descriptors for _, descriptors, _ in seen]
    scores = log_odds_mr(looks, said_mr, np.array([cluster for *_, cluster in seen]))
    against = np.where(said_mr, -scores, scores)
    for n in np.argsort(-against, kind="stable"):
        picture, odds = seen[n][0], against[n]
        if odds > 0:
            other = NAMES["ct" if picture.source.modality == "mr" else "mr"]
            chance = 1 / (1 + np.exp(-odds))
            why = f"looks like {other} by its rim, interior and edges (chance {chance:.0%})"
            level: Level = "error" if odds >= MIN_ODDS_OF_ERROR else "warning"
            found.append(Finding("wrong_modality", level, (picture.label,), why))
    return found


def _folders_of_other(
    inventory: Inventory, seen: Sequence[tuple[Picture, Descriptors]]
) -> tuple[list[Finding], set[tuple[Split, Modality]]]:
    """Folders most of whose images look like the other modality by the fixed table."""
    scores = log_odds("mr", [descriptors for _, descriptors in seen])
    wrong: list[tuple[Split, Modality]] = []
    for place in inventory.folders:
        odds = [s for (picture, _), s in zip(seen, scores, strict=True) if _place(picture) == place]
        if len(odds) >= MIN_PICTURES and (statistics.median(odds) > 0) != (place[1] == "mr"):
            wrong.append(place)
    found = []
    for split in SPLITS:
        folders = [inventory.folders[place] for place in wrong if place[0] == split]
        if len(folders) == 2:
            why = "each holds what the other should: exchange them"
            found.append(Finding("exchanged_folders", "error", tuple(folders), why))
        elif folders:
            why = "most of its images look like the other modality"
            found.append(Finding("wrong_modality", "error", tuple(folders), why))
    return found, set(wrong)


def _place(picture: Picture) -> tuple[Split, Modality]:
    return picture.source.split, picture.source.modality


def _by_folder(pictures: Sequence[Picture]) -> list[list[Picture]]:
    groups: dict[tuple[Split, Modality], list[Picture]] = {}
    for picture in pictures:
        groups.setdefault(_place(picture), []).append(picture)
    return list(groups.values())


def _of_some(
    kind: str, level: Level, picked: Sequence[Picture], group: Sequence[Picture], why: str
) -> list[Finding]:
    """One finding that names the pictures of a folder of which something is true, if there are any."""
    files = tuple(picture.label for picture in picked)
    return [Finding(kind, level, files, f"{len(files)} of {len(group)}: {why}")] if files else []


def _saturated(group: Sequence[Picture]) -> list[Finding]:
    low, high = MIN_SATURATED_SHARES
    clipped = [each for each in group if each.ends[0] >= low or each.ends[1] >= high]
    clipped.sort(key=lambda each: -max(each.ends))
    lowest, highest = (
        statistics.median([each.ends[end] for each in clipped] or [0.0]) for end in (0, 1)
    )
    lost = "HU cannot be recovered" if group[0].source.modality == "ct" else "contrast is lost"
    why = (
        f"in the median {highest:.0%} of the head at the highest value and {lowest:.0%} at the"
        f" lowest: {lost}"
    )
    return _of_some("saturated", "warning", clipped, group, why)


def _marks(group: Sequence[Picture]) -> list[Finding]:
    found = []
    for mark, (kind, why) in MARKS.items():
        found += _of_some(kind, "warning", [p for p in group if mark in p.marks], group, why)
    return found


def _levels(group: Sequence[Picture]) -> list[Finding]:
    """CT slices above or below the brain, of MR the table cannot tell; volumes of a part of the head."""
    parts = [each for each in group if each.part is not None]
    if parts:
        return _of_some("partial_head", "note", parts, group, f"the first of them: {parts[0].part}")
    if group[0].source.modality != "ct":
        return []
    below = "at the level of the skull base, face or neck, by their looks"
    above = "at the top of the head, mostly bone, by their looks"
    return [
        *_of_some("below_brain", "note", _answering("below_brain", group, 0.0), group, below),
        *_of_some("vertex", "note", _answering("vertex", group, 0.0), group, above),
    ]


def _answering(question: Question, group: Sequence[Picture], above: float) -> list[Picture]:
    """Images for which the fixed table says yes, with log-odds above a value."""
    seen = [each for each in group if each.descriptors is not None and each.source.kind == "image"]
    looks = [each.descriptors for each in seen if each.descriptors is not None]
    return [
        each for each, odds in zip(seen, log_odds(question, looks), strict=True) if odds > above
    ]


def _sizes(group: Sequence[Picture]) -> list[Finding]:
    shapes = Counter(picture.shape for picture in group)
    if len(shapes) == 1:
        return []
    (usual, times), *_ = shapes.most_common(1)
    why = (
        f"{len(shapes)} sizes, from {_size(min(shapes))} to {_size(max(shapes))};"
        f" {times} of {len(group)} are {_size(usual)}"
    )
    return [Finding("mixed_sizes", "note", (group[0].folder,), why)]


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _modes(group: Sequence[Picture]) -> list[Finding]:
    modes = Counter(picture.stored for picture in group)
    if len(modes) == 1:
        return []
    why = ", ".join(f"{count} {mode}" for mode, count in modes.most_common())
    return [Finding("mixed_modes", "note", (group[0].folder,), why)]


def _planes(group: Sequence[Picture]) -> list[Finding]:
    """Images that are not axial by their looks; volumes taken in another plane than most."""
    why = "not axial by their looks, or cut off below"
    odd = _answering("not_axial", group, MIN_ODDS_NOT_AXIAL)
    planes = Counter(each.plane for each in group if each.plane is not None)
    others: list[Picture] = []
    if len(planes) > 1:
        usual = planes.most_common(1)[0][0]
        others = [each for each in group if each.plane not in (None, usual)]
    shares = ", ".join(f"{count} in {plane} slices" for plane, count in planes.most_common())
    return [
        *_of_some("mixed_planes", "warning", odd, group, why),
        *_of_some("mixed_planes", "note", others, group, f"volumes were taken {shares}"),
    ]


def _counts(inventory: Inventory) -> list[Finding]:
    """Images beside volumes, folders without scans, and much more of one modality than of the other."""
    counts = Counter(_place(picture) for picture in inventory.pictures)
    found = []
    volumes = [each for each in inventory.pictures if each.source.kind != "image"]
    images = len(inventory.pictures) - len(volumes)
    if volumes and images:
        why = f"{images} images and {len(volumes)} volumes: training takes one or the other"
        files = tuple(inventory.folders.values())
        found.append(Finding("images_and_volumes", "error", files, why))
    for place, folder in inventory.folders.items():
        if counts[place] == 0:
            level: Level = "error" if place[0] == "train" else "warning"
            found.append(Finding("empty", level, (folder,), "no scan in it can be used"))
    for modality in MODALITIES:
        if ("train", modality) not in inventory.folders:
            why = f"no {NAMES[modality]} beside it to train on"
            files = tuple(inventory.folders.values())
            found.append(Finding("empty", "warning", files, why))
    for split in SPLITS:
        ct, mr = counts[split, "ct"], counts[split, "mr"]
        if min(ct, mr) and max(ct, mr) / min(ct, mr) > MAX_IMBALANCE:
            folders = tuple(f for place, f in inventory.folders.items() if place[0] == split)
            found.append(Finding("imbalance", "note", folders, f"{ct} CT and {mr} MR"))
    return found
