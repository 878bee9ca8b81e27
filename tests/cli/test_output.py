"""What the command line says beside results."""

import subprocess
import sys
from pathlib import Path

import pytest

from ctmr.cli.output import progress_bars, say, training_shown
from ctmr.cli.tables import say_correlations
from ctmr.results import Correlation


def test_known_correlations_of_the_measures_of_uncertainty_are_said(capsys):
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
    output = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 4
    assert output.startswith("error[E400]: stdout: cannot write")
    assert len(output.splitlines()) == 1


# Training without a terminal


def row(step):
    return {
        "step": step,
        "loss_g": 1.5,
        "loss_d_ct": 0.25,
        "loss_d_mr": 0.2,
        "seconds_per_step": 0.1,
    }


def shown(capsys, steps, seconds_a_step, stop_after=None):
    """The lines on stderr of a training of 100 steps, by a clock that only steps move."""
    now = [0.0]
    with (
        progress_bars() as progress,
        training_shown(progress, stop_after, clock=lambda: now[0]) as observe,
    ):
        for step in steps:
            now[0] += seconds_a_step
            observe(row(step), 100)
    return capsys.readouterr().err.splitlines()


def test_training_without_a_terminal_writes_a_line_each_30_seconds_and_one_at_the_end(capsys):
    losses = "G 1.500  D_ct 0.250  D_mr 0.200  0.10 s/step"
    assert shown(capsys, range(1, 101), 1.0) == [
        f"step 30 of 100  {losses}  0:01:10 left",
        f"step 60 of 100  {losses}  0:00:40 left",
        f"step 90 of 100  {losses}  0:00:10 left",
        f"step 100 of 100  {losses}  0:00:00 left",
    ]


def test_slow_step_has_one_line(capsys):
    steps = [line.split("  ")[0] for line in shown(capsys, range(97, 101), 100.0)]
    assert steps == [f"step {n} of 100" for n in range(97, 101)]


def test_quick_training_has_the_last_line_alone(capsys):
    (line,) = shown(capsys, range(1, 11), 0.1, stop_after=10)
    assert line.startswith("step 10 of 10  ")
    assert line.endswith("  0:00:00 left")


def test_training_that_is_stopped_says_where(capsys):
    def stop():
        with training_shown(lambda _: lambda *_: None) as observe:
            observe(row(7), 100)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("step 7 of 100  ")
    assert line.endswith("  0:00:09 left")


def test_training_on_a_terminal_has_bars_and_no_lines(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    seen = []
    with training_shown(lambda label: lambda *bar: seen.append((label, *bar))) as observe:
        observe(row(100), 100)
    assert capsys.readouterr().err == ""
    assert seen == [("training", 100, 100, "G 1.500  D_ct 0.250  D_mr 0.200  0.10 s/step")]
