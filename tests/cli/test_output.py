"""What the command line says beside results."""

import subprocess
import sys
from pathlib import Path

import pytest

from ctmr.cli.output import say
from ctmr.cli.tables import say_correlations
from ctmr.results import Correlation


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


def test_path_cannot_forge_a_line(capsys):
    say("written to out\nerror[E100]: \udcff")
    assert capsys.readouterr().out == "written to out\\nerror[E100]: \\udcff\n"


PRINT_CONFIG = [
    sys.executable,
    "-c",
    "from ctmr.cli import main; main()",
    "train",
    "--print-config",
]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_does_not_fit_on_the_disk_is_an_error_and_no_crash():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(PRINT_CONFIG, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 4
    assert done.stderr.startswith("error[E400]: stdout: cannot write")
    assert len(done.stderr.splitlines()) == 1


def test_output_that_nobody_reads_is_an_error_and_no_crash():
    process = subprocess.Popen(
        PRINT_CONFIG, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 4
    assert said.startswith("error[E400]: stdout: cannot write")
    assert len(said.splitlines()) == 1
