"""What the command line says beside results."""

from ctmr.console import say_correlations
from ctmr.statistics import Correlation


def test_known_correlations_of_the_measures_of_doubt_are_said(capsys):
    found = Correlation(0.712, (0.6, 0.8), 120)
    say_correlations({"cycle_error": None, "disagreement": found})
    assert capsys.readouterr().out == (
        "rank correlation with the true error on held-out pairs: disagreement 0.71 [0.60, 0.80]\n"
    )


def test_measures_of_a_model_that_saw_no_pairs_are_said_to_be_unmeasured(capsys):
    say_correlations({"cycle_error": None, "disagreement": None})
    assert capsys.readouterr().out == (
        "not measured for this model: how well cycle_error, disagreement rank true errors\n"
    )
