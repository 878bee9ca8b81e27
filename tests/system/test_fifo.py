"""A FIFO in the place of any file that is read ends in an error: to open it would wait for ever."""

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator

import pytest

from ctmr.errors import CheckpointError, CtmrError
from ctmr.evaluation.evaluate import synthetic_sequence
from ctmr.io.image_info import read_image_info
from ctmr.io.images import read_image
from ctmr.models.folder import read_model
from ctmr.reporting.evaluation_section import evaluation_section
from ctmr.system.files import read_log
from ctmr.system.yaml import read_yaml


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """End the tests, should one wait."""
    signal.alarm(20)
    yield
    signal.alarm(0)


READERS = [
    ("c.yaml", lambda path: read_yaml(path)),
    ("log.jsonl", lambda path: read_log(path)),
    ("subjects.json", lambda path: synthetic_sequence(path.parent)),
    ("metrics.json", lambda path: evaluation_section(path.parent)),
    ("ctmr.json", lambda path: read_image_info(path.parent)),
    ("a.png", lambda path: read_image(path)),
    ("model.json", lambda path: read_model(path.parent)),
]


@pytest.mark.parametrize(("name", "read"), READERS)
def test_fifo_in_the_place_of_a_file_is_never_waited_for(tmp_path, name, read):
    os.mkfifo(tmp_path / name)
    with contextlib.suppress(CtmrError):
        read(tmp_path / name)


def test_fifo_in_the_place_of_weights_is_never_waited_for(tiny_run, tmp_path):
    shutil.copytree(tiny_run / "model", tmp_path / "model")
    weights = tmp_path / "model" / "generator_ct_to_mr.safetensors"
    weights.unlink()
    os.mkfifo(weights)
    signal.alarm(20)
    try:
        with pytest.raises(CheckpointError, match="it is not a regular file"):
            read_model(tmp_path)
    finally:
        signal.alarm(0)
