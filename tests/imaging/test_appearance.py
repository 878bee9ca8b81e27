import numpy as np
import pytest

from ctmr.imaging.appearance import fit_logistic, log_odds, log_odds_mr, table
from ctmr.imaging.descriptors import Descriptors
from support.pictures import look, slices

CT = [look(picture)[0] for seed in range(20, 30) for picture in slices(seed, "ct")]
MR = [look(picture)[0] for seed in range(30, 40) for picture in slices(seed, "mr")]


def test_table_asks_for_descriptors_that_there_are():
    assert set(table()) == {"mr", "not_axial", "below_brain", "vertex"}
    for row in table().values():
        assert set(row.descriptors) <= set(Descriptors._fields)
        terms = row.terms(CT[:3])
        assert terms.shape == (3, row.weights.size)
        assert (terms[:, 0] == 1).all()
        assert np.isfinite(row.weights).all()


def test_table_tells_the_modality_of_heads_it_was_not_learnt_from():
    assert (log_odds("mr", CT) < 0).mean() >= 0.95
    assert (log_odds("mr", MR) > 0).mean() >= 0.95


def test_table_takes_axial_slices_of_the_brain_for_what_they_are():
    assert (log_odds("not_axial", CT + MR) < 2).all()
    assert (log_odds("below_brain", CT) < 0).mean() >= 0.9
    assert (log_odds("vertex", CT) < 0).mean() >= 0.9


def test_no_picture_has_no_answer():
    assert log_odds("mr", []).shape == (0,)


@pytest.mark.parametrize("times", [3, 50, 201])
def test_equal_pictures_have_equal_odds_to_the_last_bit(times):
    looks = CT[:10] + MR[:10] + MR[10:11] * times
    said_mr = np.arange(len(looks)) >= 10
    clusters = np.minimum(np.arange(len(looks)), 20)
    assert len({*log_odds("mr", looks)[20:]}) == 1
    assert len({*log_odds_mr(looks, said_mr, clusters)[20:]}) == 1


def test_ct_among_mr_is_found_though_it_is_learnt_from():
    said_mr = np.array([False] * 36 + [True] * 4 + [True] * 40)
    scores = log_odds_mr(CT + MR, said_mr, np.arange(80))
    assert (scores[36:40] < 0).all()
    assert (scores[:36] < 0).mean() >= 0.97
    assert (scores[40:] > 0).mean() >= 0.97


def test_few_pictures_leave_the_table_as_it_is():
    looks, said_mr = CT[:4] + MR[:4], np.arange(8) >= 4
    assert log_odds_mr(looks, said_mr, np.arange(8)) == pytest.approx(log_odds("mr", looks))


def test_more_pictures_are_surer():
    looks, said_mr = CT + MR, np.arange(80) >= 40
    against = np.where(said_mr, 1, -1)
    learnt = log_odds_mr(looks, said_mr, np.arange(80)) * against
    assert np.median(learnt) > np.median(log_odds("mr", looks) * against)


def test_logistic_loss_is_least_where_its_gradient_is_zero():
    rng = np.random.default_rng(0)
    terms = np.column_stack([np.ones(50), rng.normal(size=(50, 2))])
    labels = (terms[:, 1] + rng.normal(0, 1, 50) > 0).astype(float)
    start = np.array([0.5, -1.0, 2.0])
    weights = fit_logistic(terms, labels, start, 0.7)
    chance = 1 / (1 + np.exp(-terms @ weights))
    gradient = terms.T @ (chance - labels) + 0.7 * (weights - start)
    assert gradient == pytest.approx(np.zeros(3), abs=1e-3)


def test_strong_pull_leaves_the_weights():
    terms, labels = np.ones((4, 1)), np.array([0.0, 1.0, 1.0, 1.0])
    assert fit_logistic(terms, labels, np.array([-2.0]), 1e6) == pytest.approx([-2.0], abs=1e-4)
    # log(3) is the log-odds of three in four.
    assert fit_logistic(terms, labels, np.zeros(1), 1e-9) == pytest.approx([np.log(3)], abs=1e-3)
