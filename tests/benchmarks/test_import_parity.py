"""The door of benchmarks/import_parity.py; the comparison itself needs the reference implementation."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "import_parity.py"


def test_a_folder_without_the_reference_is_refused_in_one_line(tmp_path: Path) -> None:
    words = ("--reference", tmp_path, "--reference-python", sys.executable)
    done = subprocess.run(
        [sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error[E200]: {tmp_path}: expected a clone of")
    assert done.stderr.count("\n") == 1
