"""Translations looked at in every way that needs no truth, and gathered."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ctmr.data.store import evenly
from ctmr.evaluation.metrics.distribution import Features, compare, features
from ctmr.evaluation.metrics.no_reference import mirror_check, no_reference_metrics
from ctmr.evaluation.statistics import Row
from ctmr.imaging.image import Scan
from ctmr.results import Definition, Distances
from ctmr.translation.translator import Translator
from ctmr.types import OTHER, BoolArray, Direction, Encoding, Modality

if TYPE_CHECKING:
    from ctmr.reporting.figures import Case

_MASK = "head mask"
_SHARE = "1 is the whole range"  # of grey values
NO_REFERENCE = {
    "cycle_error": Definition(
        "difference of the source and its way there and back", "", _MASK, _SHARE, "lower"
    ),
    "disagreement": Definition(
        "difference of results of the source and of the mirrored one", "", _MASK, _SHARE, "lower"
    ),
    "input_distance": Definition(
        "distance from the training images", "", _MASK, "1 is their edge", "lower"
    ),
    "structure_kept": Definition(
        "correlation of MIND of source and result", "", _MASK, "1 is a copy", "neither"
    ),
    "local_nmi": Definition(
        "local mutual information of source and result", "", _MASK, "2 is a copy", "neither"
    ),
    "copy_correlation": Definition(
        "correlation of source and result", "", _MASK, "1 is a copy", "neither"
    ),
    "copy_difference": Definition(
        "difference of source and result", "", _MASK, "0 is a copy", "neither"
    ),
    "slice_jitter": Definition(
        "second difference from slice to slice of the result", "", _MASK, _SHARE, "lower"
    ),
    "slice_jitter_source": Definition("the same of the source", "", _MASK, _SHARE, "neither"),
}
MAX_SLICES = 16  # of a volume, evenly chosen, whose features are compared


@dataclass(eq=False)
class Pile:
    """Features of images of one modality, with their patients."""

    rows: list[Features] = field(default_factory=list)
    patients: list[str] = field(default_factory=list)

    def add(self, rows: Features, patient: str) -> None:
        """Add images (K, 48) of one patient."""
        self.rows.append(rows)
        self.patients += [patient] * len(rows)


@dataclass(eq=False)
class Seen:
    """What was gathered, scan by scan.

    Attributes:
        rows: Figures of each scan, direction and method.
        cases: Rows of `comparison.png`.
        real: Real images of the target of each direction.
        translated: Images translated in that direction.
        mirrored: How many results seem to have left and right exchanged.
        values: What the values of the truth are.
        in_mm: Whether all truths have a spacing.
    """

    rows: list[Row] = field(default_factory=list)
    cases: "list[Case]" = field(default_factory=list)
    real: dict[Direction, Pile] = field(default_factory=dict)
    translated: dict[Direction, Pile] = field(default_factory=dict)
    mirrored: dict[Direction, int] = field(default_factory=dict)
    values: dict[Direction, Encoding] = field(default_factory=dict)
    in_mm: bool = True

    def distances(self, direction: Direction) -> Distances | None:
        """Between real and translated images; None where too few are there."""
        real, translated = (piles.get(direction) for piles in (self.real, self.translated))
        if real is None or translated is None:
            return None
        return compare(
            np.concatenate(real.rows),
            np.concatenate(translated.rows),
            real.patients,
            translated.patients,
        )


def observe(
    translator: Translator, scan: Scan, to: Modality, mask: BoolArray, *, anyway: bool = False
) -> tuple[Scan, dict[str, float], bool]:
    """Translate a scan, there and back and mirrored, and look at the result.

    Args:
        translator: Of the model in question.
        scan: A CT if `to` is `"mr"`, else an MR.
        to: The modality wanted.
        mask: Head mask on the scan's grid.
        anyway: Translate what looks like another modality, or like no head, too.

    Returns:
        The translation; the figures of `no_reference_metrics` and the measures of uncertainty of `Quality`; whether left and
        right seem to be exchanged.

    Raises:
        CtmrError: If it cannot be translated.
    """
    done = translator.translation(scan, to, quality="full", anyway=anyway)
    source = translator.preprocessor.own_slices(scan, OTHER[to], mask)
    result = translator.preprocessor.own_slices(done.scan, to, mask)
    inside = scan.axial(mask)
    figures = no_reference_metrics(source, result, inside)
    figures |= {str(name): value for name, value in done.quality.measures().items()}
    return done.scan, figures, mirror_check(source, result, inside).looks_mirrored


def features_of(
    translator: Translator, scan: Scan, modality: Modality, mask: BoolArray
) -> Features:
    """The features of a scan's slices that show the head, of at most 16 of a volume: (K, 48)."""
    inside = scan.axial(mask)
    shown = np.flatnonzero(inside.any(axis=(1, 2)))
    chosen = shown[evenly(len(shown), MAX_SLICES)]
    slices = translator.preprocessor.own_slices(scan, modality, mask)
    return features(slices[chosen], inside[chosen])
