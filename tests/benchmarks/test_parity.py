"""The door of benchmarks/parity.py; the comparison itself needs the reference implementation."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "parity.py"


def run(reference: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        SCRIPT,
        "--reference",
        reference,
        "--reference-python",
        sys.executable,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_folder_without_the_reference_is_refused_in_one_line(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error[E200]: {tmp_path}: expected a clone of")
    assert done.stderr.count("\n") == 1


def test_a_reference_that_does_not_run_is_named_with_its_reason_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "cycle_gan_model.py").touch()
    done = run(tmp_path)
    assert done.returncode == 2
    assert "ModuleNotFoundError: No module named 'options'" in done.stderr
    assert done.stderr.count("\n") == 1
