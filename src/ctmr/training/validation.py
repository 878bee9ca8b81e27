"""Which step of a training is kept as the best: evaluations at an interval, their curve, and `best/`."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from ctmr.cyclegan.state import TrainState
from ctmr.data.copies import VAL
from ctmr.data.pairs import Pair, find_pairs, require_all, without_maps
from ctmr.data.store import Store, evenly
from ctmr.errors import OutputError
from ctmr.evaluation.evaluate import summary_of
from ctmr.evaluation.metrics.distribution import features
from ctmr.evaluation.metrics.no_reference import no_reference_metrics
from ctmr.evaluation.paired import look_at_pairs
from ctmr.evaluation.results import Pile, Seen
from ctmr.evaluation.statistics import MODEL, Row
from ctmr.io.reading import DEFAULT, Reading
from ctmr.io.scan import content_hash, kind_of
from ctmr.models.engines import Precision
from ctmr.models.folder import model_of, save_model
from ctmr.models.quality import difference, head_in
from ctmr.models.torch_engine import run_generator
from ctmr.results import DirectionMetrics, EvaluationLine
from ctmr.system.files import read_log, write_text
from ctmr.training.run_folder import RunFolder
from ctmr.translation.translator import Translator
from ctmr.types import DIRECTION_TO, DIRECTIONS, MODALITIES, OTHER, Direction, Split

logger = logging.getLogger(__name__)


MAX_SLICES = 48  # pairs of slices, or slices of each modality, that are looked at, evenly chosen
MAX_VOLUMES = 4  # pairs: a volume has more slices than that, and each is translated three times
MIN_TEST_SLICES = 8  # held-out slices of each modality whose distances say something
WITH_TRUTH = ("mae", "ssim")


def pairs_to_choose_by(
    data: Path, patient_pattern: str | None, reading: Reading = DEFAULT
) -> list[Pair]:
    """The pairs in the `val/` of a data folder, at most `MAX_SLICES`, or `MAX_VOLUMES`; none where it has none.

    Raises:
        CtmrError: Naming all of them that cannot be read.
    """
    folders = [data / VAL / modality for modality in MODALITIES]
    if not all(folder.is_dir() and any(folder.iterdir()) for folder in folders):
        return []
    pairs = find_pairs(data / VAL, patient_pattern, reading)
    limit = MAX_SLICES if kind_of(pairs[0].ct) == "image" else MAX_VOLUMES
    pairs = without_maps([pairs[n] for n in evenly(len(pairs), limit)])
    require_all(pairs)
    return pairs


class Selection:
    """Evaluates a model in training, by pairs (`pairs_to_choose_by`), or without truth on held-out slices.

    With pairs the better model has the higher SSIM, averaged over both directions; without, the smaller kernel distance
    between translated and real images.
    """

    def __init__(
        self, folder: RunFolder, store: Store, pairs: Sequence[Pair], precision: Precision
    ) -> None:
        self._folder, self._store, self._pairs = folder, store, pairs
        self._precision: Precision = precision
        hashes = [_hashes(pair) for pair in pairs]
        trained = store.trained_on(set().union(*hashes))
        shared = [pair.name for pair, own in zip(pairs, hashes, strict=True) if own & trained]
        if shared:
            logger.warning(
                "%d pairs in %s/ hold training scans, so that the best model is not chosen by unseen"
                " ones: %s",
                len(shared),
                VAL,
                ", ".join(shared[:3]) + ("; ..." if shared[3:] else ""),
            )

    def has(self, step: int) -> bool:
        """Whether that step has been evaluated."""
        return any(line.step == step for line in read_evaluations(self._folder.evaluations, step))

    def evaluate(self, state: TrainState, about: dict[str, Any]) -> dict[str, Any]:
        """Evaluate the model, draw the curve anew, and keep the model as `best/` if it is the best so far.

        Args:
            state: At the end of a step.
            about: What `model.json` is to say.

        Returns:
            `about`, with the rank correlations of the uncertainty measures where the truth is known.
        """
        from ctmr.reporting.curves import evaluation_curves
        from ctmr.reporting.figures import save

        if self._pairs:
            translator = Translator(model_of(state, about), precision=self._precision)
            seen = look_at_pairs(translator, self._pairs, DIRECTIONS, only=WITH_TRUTH)
        else:
            seen = self._no_reference(state)
        found = summary_of(seen).directions
        if self._pairs:
            ranks = {d: each.model_dump()["uncertainty"] for d, each in found.items()}
            about = {**about, "correlations": ranks}
        line = _line(state.step, found)
        lines = [*read_evaluations(self._folder.evaluations, state.step - 1), line]
        best = max((each for each in lines if each.by == line.by), key=lambda each: each.score)
        if best is line:
            save_model(self._folder.best, state, about)
        try:
            save(evaluation_curves(lines, best.step), self._folder.evaluation_curves)
        except OutputError as error:
            logger.warning("the training goes on without the curves of its evaluations: %s", error)
        # Last: an evaluation without its line is done again.
        text = "".join(json.dumps(each.as_json()) + "\n" for each in lines)
        write_text(self._folder.evaluations, text)
        return about

    def _no_reference(self, state: TrainState) -> Seen:
        """What can be seen of held-out slices of the store, or of training slices where it has too few."""
        held_out = min(self._store.count("test", modality) for modality in MODALITIES)
        split: Split = "test" if held_out >= MIN_TEST_SLICES else "train"
        generators = dict(zip(DIRECTIONS, state.translators(), strict=True))
        seen = Seen()
        for modality in MODALITIES:
            d, back = DIRECTION_TO[OTHER[modality]], DIRECTION_TO[modality]
            entries = self._store.entries(split, modality)
            for n in evenly(len(entries), MAX_SLICES):
                image = self._store.slice(split, modality, n)  # (H, W, C)
                result = run_generator(generators[d], image)
                mask = head_in(image)
                error = difference(run_generator(generators[back], result), image)[mask].mean()
                grey, grey_result = (array.mean(axis=-1)[None] for array in (image, result))
                figures = no_reference_metrics(grey, grey_result, mask[None])
                figures["cycle_error"] = float(error)
                patient = entries[n].patient or entries[n].name
                seen.rows.append(Row(entries[n].name, patient, d, MODEL, figures))
                seen.real.setdefault(back, Pile()).add(features(grey, mask[None]), patient)
                translated = features(grey_result, mask[None])
                seen.translated.setdefault(d, Pile()).add(translated, patient)
        return seen


def _hashes(pair: Pair) -> set[str]:
    return {content_hash(path, kind_of(path) or "image") for path in (pair.ct, pair.mr)}


def read_evaluations(path: Path, step: int) -> list[EvaluationLine]:
    """The lines of an `evaluations.jsonl` up to a step; those of another form are skipped."""
    lines = []
    for row in read_log(path):
        with suppress(ValidationError):
            lines.append(EvaluationLine.model_validate(row))
    return [line for line in lines if line.step <= step]


def _line(step: int, found: Mapping[Direction, DirectionMetrics]) -> EvaluationLine:
    """The line of `evaluations.jsonl`: the mean of each figure in each direction, and the score to choose by."""
    directions: dict[str, dict[str, float]] = {}
    for d, metrics in found.items():
        directions[d] = {k: v.mean for k, v in (metrics.figures | metrics.no_reference).items()}
        if metrics.distances is not None:
            directions[d] |= {
                "frechet": metrics.distances.frechet,
                "kernel": metrics.distances.kernel,
            }
    with_truth = all("ssim" in metrics for metrics in directions.values())
    key, sign = ("ssim", 1) if with_truth else ("kernel", -1)
    score = sign * float(np.mean([metrics.get(key, np.nan) for metrics in directions.values()]))
    score = score if math.isfinite(score) else -1e9
    return EvaluationLine.model_validate({"step": step, "by": key, "score": score} | directions)
