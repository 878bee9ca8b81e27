"""The second look at a data folder: by names, sizes and modification times."""

import os
import shutil

import pytest

import ctmr.data.seen
from ctmr.config import PRESETS
from ctmr.data.prepare import prepare
from ctmr.data.seen import Seen, tree_digest
from ctmr.errors import DataError
from support.heads import write_data

CONFIG = PRESETS["small"].data.model_copy(update={"size": 32})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTMR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "data")


@pytest.fixture
def read(monkeypatch):
    """Names of the files whose contents were hashed."""
    names = []
    digest = ctmr.data.seen.content_digest

    def counted(path):
        names.append(path.name)
        return digest(path)

    monkeypatch.setattr(ctmr.data.seen, "content_digest", counted)
    return names


def image(data):
    return sorted((data / "trainA").iterdir())[0]


def test_unchanged_folder_is_not_read(data, read, monkeypatch):
    first = prepare(data, CONFIG)
    assert len(read) == sum(len(files) for _, _, files in os.walk(data))
    read.clear()
    monkeypatch.setattr("ctmr.data.prepare.require_sources", lambda *_: pytest.fail("listed"))
    assert prepare(data, CONFIG).fingerprint == first.fingerprint
    assert read == []


def test_only_files_with_another_size_or_time_are_read(data, read):
    first = prepare(data, CONFIG)
    read.clear()
    os.utime(image(data), ns=(1, 1))
    assert prepare(data, CONFIG).fingerprint == first.fingerprint
    assert read == [image(data).name]
    read.clear()
    shutil.copy(image(data), data / "trainA" / "zz_new.png")
    assert prepare(data, CONFIG).fingerprint != first.fingerprint
    assert read == ["zz_new.png"]
    read.clear()
    (data / "trainA" / "zz_new.png").unlink()
    assert prepare(data, CONFIG).fingerprint == first.fingerprint
    assert read == []


def test_store_that_was_removed_is_made_again_without_another_hash(data, read):
    first = prepare(data, CONFIG)
    shutil.rmtree(first.path)
    read.clear()
    assert prepare(data, CONFIG).fingerprint == first.fingerprint
    assert read == []


def silently_changed(path):
    """Change a file's content, but not its size and modification time."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_change_that_keeps_size_and_time_is_found_by_verify_alone(data, tmp_path, caplog):
    first = prepare(data, CONFIG)
    prepare(data, CONFIG, tmp_path / "store")
    silently_changed(image(data))
    assert prepare(data, CONFIG).fingerprint == first.fingerprint
    with pytest.raises(DataError, match="made of other data or settings than are there now"):
        prepare(data, CONFIG, tmp_path / "store", verify=True)
    assert "1 files have another content than before" in caplog.text
    assert image(data).name in caplog.text


def test_file_of_what_was_seen_that_cannot_be_understood_is_nothing(data, read, tmp_path):
    first = prepare(data, CONFIG)
    (place,) = (tmp_path / "cache" / "seen").iterdir()
    for content in (b"", b"{}", b"\xff", place.read_bytes()[:-7], b'{"format": "x"}\n'):
        place.write_bytes(content)
        read.clear()
        assert prepare(data, CONFIG).fingerprint == first.fingerprint


def test_other_settings_and_other_reading_are_not_mixed_up(data):
    prepare(data, CONFIG)
    assert Seen(data, "other").fingerprint is None


def test_links_in_a_circle_and_dangling_ones_end_the_walk(data):
    before = tree_digest(data)
    (data / "trainA" / "circle").symlink_to(data / "trainA")
    (data / "trainA" / "nowhere").symlink_to(data / "missing")
    after = tree_digest(data)
    assert after != before
    assert tree_digest(data) == after
    assert tree_digest(data / "missing") == tree_digest(data / "missing")


def test_no_cache_folder_is_needed_for_a_store_with_a_place_of_its_own(data, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CTMR_CACHE", str(tmp_path / "file" / "cache"))
    assert prepare(data, CONFIG, tmp_path / "store").count("train", "ct")
