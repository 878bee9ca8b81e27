"""What stands in a data folder twice, and what is on both sides of its split: copies and patients."""

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import scipy
from numpy.typing import NDArray

from ctmr.audit.near_duplicates import Copy, find_copies
from ctmr.audit.scan_profile import Picture
from ctmr.results import Finding
from ctmr.types import Level

Labels = NDArray[np.int64]


def copies_of(pictures: Sequence[Picture]) -> list[Copy]:
    """All pairs that show the same but are not the same, by their place in `pictures`.

    Of pictures that are equal value for value only the first is compared.
    """
    firsts: dict[str, int] = {}
    for n, picture in enumerate(pictures):
        if picture.print is not None:
            firsts.setdefault(picture.digest, n)
    places = list(firsts.values())
    prints = [found for n in places if (found := pictures[n].print) is not None]
    return [
        copy._replace(first=places[copy.first], second=places[copy.second])
        for copy in find_copies(prints)
    ]


def clusters(pictures: Sequence[Picture], copies: Sequence[Copy]) -> Labels:
    """(N,): pictures that are equal, show the same or are of one patient have one number."""
    pairs = [(copy.first, copy.second) for copy in copies]
    pairs += _chains(picture.digest for picture in pictures)
    pairs += _chains(picture.patient for picture in pictures)
    return _joined(len(pictures), pairs)


def find_leaks(pictures: Sequence[Picture], copies: Sequence[Copy]) -> list[Finding]:
    """Equal pictures, near duplicates and patients on both sides of the split."""
    return [
        *_equal(pictures),
        *_near(pictures, copies),
        *_patients(pictures),
    ]


def _equal(pictures: Sequence[Picture]) -> list[Finding]:
    equal = _joined(len(pictures), _chains(picture.digest for picture in pictures))
    found = []
    for group in _groups(pictures, equal):
        several = f"{len(group)} files with the same pixels"
        if _in_both(group):
            kind, why = "identical_train_test", f"{several}, in training and in test folders"
        elif len({picture.source.modality for picture in group}) > 1:
            kind, why = "identical_ct_mr", f"{several}, in a folder of CT and in one of MR"
        else:
            kind, why = "identical", f"{several} in one folder: they count that many times"
        level: Level = "warning" if kind == "identical" else "error"
        found.append(Finding(kind, level, _names(group), why))
    return found


def _near(pictures: Sequence[Picture], copies: Sequence[Copy]) -> list[Finding]:
    """Groups of pictures that show the same; those equal to one of them too."""
    pairs = [(copy.first, copy.second) for copy in copies]
    alike = _joined(len(pictures), pairs + _chains(picture.digest for picture in pictures))
    least: dict[int, float] = {}
    turned: dict[int, set[str]] = {}
    for copy in copies:
        cluster = int(alike[copy.first])
        least[cluster] = min(copy.likeness, least.get(cluster, 1.0))
        turned.setdefault(cluster, set()).update({copy.mirror} - {""})
    numbered = {id(picture): int(label) for picture, label in zip(pictures, alike, strict=True)}
    found = []
    for group in _groups(pictures, alike):
        cluster = numbered[id(group[0])]
        if cluster not in least:  # equal ones only
            continue
        how = f", some {' or '.join(sorted(turned[cluster]))}" if turned[cluster] else ""
        why = f"{len(group)} files that show the same{how} (likeness {least[cluster]:.2f} or more)"
        if _in_both(group):
            why += ", in training and in test folders"
        level: Level = "error" if _in_both(group) else "warning"
        found.append(Finding("near_duplicate", level, _names(group), why))
    return found


def _patients(pictures: Sequence[Picture]) -> list[Finding]:
    of_one = _joined(len(pictures), _chains(picture.patient for picture in pictures))
    return [
        Finding(
            "patient_train_test",
            "error",
            _names(group),
            f"{len(group)} scans of one patient, in training and in test folders",
        )
        for group in _groups(pictures, of_one)
        if group[0].patient is not None and _in_both(group)
    ]


def _in_both(group: Sequence[Picture]) -> bool:
    return len({picture.source.split for picture in group}) > 1


def _names(group: Sequence[Picture]) -> tuple[str, ...]:
    return tuple(picture.label for picture in group)


def _groups(pictures: Sequence[Picture], labels: Labels) -> list[list[Picture]]:
    """The groups of two or more, the largest first."""
    groups: dict[int, list[Picture]] = {}
    for picture, label in zip(pictures, labels, strict=True):
        groups.setdefault(int(label), []).append(picture)
    return sorted((g for g in groups.values() if len(g) > 1), key=len, reverse=True)


def _chains(keys: Iterable[Hashable | None]) -> list[tuple[int, int]]:
    """Each place with the first of its key; None is no key."""
    firsts: dict[Hashable, int] = {}
    return [(firsts.setdefault(key, n), n) for n, key in enumerate(keys) if key is not None]


def _joined(count: int, pairs: Sequence[tuple[int, int]]) -> Labels:
    """(count,): one number for all that are joined by pairs."""
    one, other = np.array(pairs, np.int64).reshape(-1, 2).T
    links = scipy.sparse.coo_matrix((np.ones(len(one)), (one, other)), (count, count))
    return np.asarray(scipy.sparse.csgraph.connected_components(links, directed=False)[1], np.int64)
