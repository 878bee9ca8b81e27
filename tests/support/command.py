"""What `ctmr translate` writes for a scan that has the names a server of `ctmr view` gives."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ctmr.cli.app import app


def by_command(tmp_path: Path, to: str, *options: str) -> Path:
    """What the command writes for the scan in `scan/`, which has the server's names; the folder of its results."""
    (tmp_path / "out").mkdir()
    files = sorted((tmp_path / "scan").iterdir())
    series = files[0].suffix == ".dcm"
    source, target = ("scan", "out/translation") if series else (f"scan/{files[0].name}", "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        result = CliRunner().invoke(app, ["translate", source, target, "--to", to, *options])
    assert result.exit_code == 0, result.output
    return tmp_path / "out"


def timeless(content: bytes) -> Any:
    """A sidecar without what differs between two runs."""
    sidecar = json.loads(content)
    return {key: value for key, value in sidecar.items() if key not in ("seconds", "seal")}
