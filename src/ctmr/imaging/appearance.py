"""What a picture shows, judged by its descriptors: CT or MR, an axial slice or another, at the level of the brain or not.

Each question has a row of a fixed table, `appearance.json`, that `benchmarks/appearance.py` learnt from synthetic heads; no
real scan is in it. Whether a picture is MR is learnt anew from the pictures of a data set, starting from the table.
"""

import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Literal, NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from ctmr.imaging.descriptors import Descriptors
from ctmr.system.rng import stream
from ctmr.types import BoolArray

Question = Literal["mr", "not_axial", "below_brain", "vertex"]
Doubles = NDArray[np.float64]

FOLDS = 8
ROUNDS = 3
RIDGE = 10.0  # towards the table, as a ridge penalty on what a weight differs from it
# Log-odds against its folder from which a picture does not teach what the folder's modality looks like: at first by the
# table, then by what was learnt.
MAX_ODDS_AGAINST = (1.0, 0.5)
MIN_TAUGHT = 5  # pictures of each modality to learn from


class Row(NamedTuple):
    """A question of the table: log-odds = (1, z, products of two z) . weights with z = (descriptor - centre) / scale."""

    descriptors: tuple[str, ...]
    centre: Doubles
    scale: Doubles
    weights: Doubles

    def terms(self, looks: Sequence[Descriptors]) -> Doubles:
        """(N, terms): each descriptor and each product of two, standardised, and 1."""
        values = np.array([[getattr(look, name) for name in self.descriptors] for look in looks])
        z = np.clip(
            (values.reshape(len(looks), len(self.descriptors)) - self.centre) / self.scale, -4, 4
        )
        first, second = np.triu_indices(len(self.descriptors))
        return np.column_stack([np.ones(len(z)), z, z[:, first] * z[:, second] / 2])


@cache
def table() -> dict[str, Row]:
    """The fixed table."""
    text = (resources.files("ctmr.imaging") / "appearance.json").read_text(encoding="utf-8")
    return {
        question: Row(tuple(row["descriptors"]), *(np.array(row[key]) for key in Row._fields[1:]))
        for question, row in json.loads(text).items()
    }


def log_odds(question: Question, looks: Sequence[Descriptors]) -> Doubles:
    """(N,): above 0 where the answer is more likely yes than no, by the table alone."""
    row = table()[question]
    return _scores(row.terms(looks), row.weights)


def _scores(terms: Doubles, weights: Doubles) -> Doubles:
    """(N, M) and (M,) -> (N,), equal for equal rows.

    Not by BLAS: it adds the last rows in another order than the first, and on so small a table its threads wait for
    each other longer than they work.
    """
    return np.asarray(np.einsum("nm,m->n", terms, weights))


def log_odds_mr(
    looks: Sequence[Descriptors], said_mr: BoolArray, clusters: NDArray[np.int64]
) -> Doubles:
    """Log-odds that a picture is MR, learnt from the other pictures of a data set and what their folders say they are.

    Logistic regression, cross-validated, whose weights are pulled towards the table: ten pictures hardly change it, and
    hundreds outweigh it. A picture that looks much more like the other modality teaches nothing, so that wrong labels
    are not learnt.

    Args:
        looks: Descriptors of N pictures.
        said_mr: (N,) whether they lie in a folder of MR.
        clusters: (N,) pictures of one number are never on both sides of the cross-validation.

    Returns:
        (N,) log-odds.
    """
    row = table()["mr"]
    terms, labels = row.terms(looks), said_mr.astype(np.float64)
    against = np.where(said_mr, -1, 1)  # log-odds x this: against the folder
    scores = _scores(terms, row.weights)
    names, place = np.unique(clusters, return_inverse=True)
    folds = (stream("audit", "folds").permutation(len(names)) % FOLDS)[place]
    teaches = scores * against < MAX_ODDS_AGAINST[0]
    for _ in range(ROUNDS):
        scores = np.zeros(len(terms))
        for fold in range(FOLDS):
            left_out, taught = folds == fold, (folds != fold) & teaches
            weights = _learnt(terms[taught], labels[taught], row.weights)
            scores[left_out] = _scores(terms[left_out], weights)
        teaches = scores * against < MAX_ODDS_AGAINST[1]
    return scores


def _learnt(terms: Doubles, labels: Doubles, start: Doubles) -> Doubles:
    """Weights of the least logistic loss near `start`."""
    if min(labels.sum(), (1 - labels).sum()) < MIN_TAUGHT:
        return start
    return fit_logistic(terms, labels, start, RIDGE)


def fit_logistic(terms: Doubles, labels: Doubles, start: Doubles, ridge: float) -> Doubles:
    """Weights w of the least  sum log(1 + exp(-+ terms . w)) + ridge / 2 |w - start|^2.

    Args:
        terms: (N, M).
        labels: (N,), 0 or 1.
        start: (M,).
        ridge: Above 0.
    """

    def loss(weights: Doubles) -> tuple[float, Doubles]:
        scores, away = _scores(terms, weights), weights - start
        value = np.logaddexp(0, scores).sum() - labels @ scores + ridge / 2 * away @ away
        chance = 0.5 * (1 + np.tanh(scores / 2))
        return float(value), np.einsum("nm,n->m", terms, chance - labels) + ridge * away

    found = scipy.optimize.minimize(
        loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}
    )
    return np.asarray(found.x)
