"""Stores of the earlier format."""

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from ctmr.cli.app import app
from ctmr.config import PRESETS
from ctmr.data.copies import sha256_of
from ctmr.data.prepare import prepare
from ctmr.data.store import open_store
from ctmr.errors import DataError, OutputError
from ctmr.types import MODALITIES, SPLITS
from support.heads import write_data

CONFIG = PRESETS["small"].data.model_copy(update={"size": 32})


@pytest.fixture
def store(tmp_path, tiny_pairs):
    """One of the present format."""
    return prepare(write_data(tmp_path / "data"), CONFIG, tmp_path / "store", pairs=tiny_pairs)


@pytest.fixture
def earlier(store, tmp_path):
    """The same as ctmr 0.2.0 wrote it."""
    place = tmp_path / "earlier"
    shutil.copytree(store.path / "pairs", place / "pairs")
    entries: dict = {split: {m: [] for m in MODALITIES} for split in SPLITS}
    offset = 0
    with (place / "slices.u16").open("wb") as stream:
        for split in SPLITS:
            for m in MODALITIES:
                for n, entry in enumerate(store.entries(split, m)):
                    entries[split][m].append(vars(entry) | {"offset": offset})
                    codes = store.codes(split, m, n)
                    stream.write(codes.tobytes())
                    offset += codes.size
    head = store.manifest.model_dump(mode="json", exclude={"parts", "counts", "heights", "overlap"})
    head |= {"format": "ctmr store 3", "entries": entries, "overlap": [], "copies": store.copies}
    head["slices_sha256"] = sha256_of(place / "slices.u16")
    (place / "store.json").write_text(json.dumps(head, indent=1))
    return place


def test_earlier_store_is_refused_with_the_command_that_converts_it(store, earlier, tmp_path):
    with pytest.raises(DataError, match="earlier format 'ctmr store 3'") as caught:
        open_store(earlier)
    command = caught.value.fix.removeprefix("convert it with ctmr ")
    assert command == f"prepare {earlier} NEW_STORE"
    new = tmp_path / "new"
    done = CliRunner().invoke(app, command.replace("NEW_STORE", str(new)).split())
    assert done.exit_code == 0, done.output
    names = sorted(path.relative_to(store.path) for path in store.path.rglob("*"))
    assert names == sorted(path.relative_to(new) for path in new.rglob("*"))
    for name in names:
        if (new / name).is_file():
            assert (new / name).read_bytes() == (store.path / name).read_bytes(), name
    assert np.array_equal(open_store(new).slice("test", "mr", 0), store.slice("test", "mr", 0))


def test_damaged_earlier_store_is_not_converted(earlier, tmp_path):
    slices = earlier / "slices.u16"
    content = bytearray(slices.read_bytes())
    content[100] ^= 1
    slices.write_bytes(content)
    with pytest.raises(DataError, match="its slices are not what was written"):
        prepare(earlier, CONFIG, tmp_path / "new")
    (earlier / "store.json").write_text('{"format": "ctmr store 3"}')
    with pytest.raises(DataError, match="it cannot be understood"):
        prepare(earlier, CONFIG, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_place_of_a_converted_store_must_be_empty_and_writable(earlier, tmp_path):
    with pytest.raises(OutputError, match="expected a new or empty folder"):
        prepare(earlier, CONFIG, tmp_path / "data")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write the store"):
        prepare(earlier, CONFIG, tmp_path / "file" / "new")


def test_earlier_store_in_the_cache_is_made_again(store, earlier, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("CTMR_CACHE", str(tmp_path / "cache"))
    place = prepare(tmp_path / "data", CONFIG).path
    shutil.rmtree(place)
    shutil.copytree(earlier, place)
    again = prepare(tmp_path / "data", CONFIG)
    assert again.path == place
    assert "the cached store cannot be used and is made again" in caplog.text
    assert again.fingerprint == store.fingerprint
