"""What is half written: kept where a process was stopped, and the same in the end."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import ctmr.data.writing
from ctmr.config import PRESETS
from ctmr.data.prepare import _fingerprint, _paced, prepare
from ctmr.data.sources import Source
from ctmr.errors import DataError, OutputError
from ctmr.io.image_info import ImageInfo
from ctmr.io.reading import Reading
from support.heads import write_data

CONFIG = PRESETS["small"].data.model_copy(update={"size": 32})


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "data")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr("ctmr.data.planning.SHARD_BYTES", 9000)


@pytest.fixture
def written(monkeypatch):
    """Names of the images that were brought into the store."""
    names = []
    image = ctmr.data.writing._image

    def counted(piece, head):
        names.append(piece.source.label)
        return image(piece, head)

    monkeypatch.setattr(ctmr.data.writing, "_image", counted)
    return names


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def stop(data: Path, place: Path, after: int) -> Path:
    """Prepare until so many scans are written, and be interrupted; what is left."""

    def interrupt(done: int, total: int) -> None:
        if done - total // 2 >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(data, CONFIG, place, interrupt)
    (draft,) = place.parent.glob(f".{place.name}.*.partial")
    return draft


def test_interrupted_preparation_goes_on_and_ends_with_the_same_bytes(data, tmp_path, written):
    whole = prepare(data, CONFIG, tmp_path / "whole")
    scans = len(written)
    draft = stop(data, tmp_path / "again", 12)
    finished = len(list(draft.glob("*.marks")))
    assert 1 < finished < len(list(whole.path.glob("slices-*")))
    assert not (tmp_path / "again").exists()
    written.clear()
    again = prepare(data, CONFIG, tmp_path / "again")
    assert len(written) <= scans - 2 * finished
    assert contents(again.path) == contents(whole.path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "data", "whole"]


@pytest.mark.parametrize("name", ["store/slices-00000.u16", "00000.marks", "plan"])
def test_damaged_draft_is_not_believed(data, tmp_path, name):
    whole = prepare(data, CONFIG, tmp_path / "whole")
    file = stop(data, tmp_path / "again", 12) / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert contents(prepare(data, CONFIG, tmp_path / "again").path) == contents(whole.path)


def test_processes_write_what_threads_write(data, tmp_path, monkeypatch):
    whole = prepare(data, CONFIG, tmp_path / "whole")
    monkeypatch.setattr("ctmr.data.prepare.MIN_FOR_PROCESSES", 0)
    monkeypatch.setattr("ctmr.data.prepare.cores", lambda: 2)
    assert contents(prepare(data, CONFIG, tmp_path / "two").path) == contents(whole.path)


def test_file_system_without_locks_gets_a_draft_of_its_own(data, tmp_path, monkeypatch):
    monkeypatch.setattr("ctmr.data.drafts.lock", lambda *_, **__: "there are none here")
    prepare(data, CONFIG, tmp_path / "store")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "store"]


def test_files_of_others_that_are_called_like_a_draft_stay(data, tmp_path):
    draft = stop(data, tmp_path / "store", 12)
    shutil.rmtree(draft)
    draft.mkdir()
    (draft / "letter.txt").write_text("mine")
    draft.with_suffix(".lock").write_text("mine")
    prepare(data, CONFIG, tmp_path / "store")
    assert (draft / "letter.txt").read_text() == draft.with_suffix(".lock").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("left", [["plan", "00000.marks"], ["plan"], []])
def test_draft_of_a_process_killed_after_its_store_was_in_place_is_cleared(data, tmp_path, left):
    draft = stop(data, tmp_path / "store", 12)
    kept = {name: (draft / name).read_bytes() for name in left}
    prepare(data, CONFIG, tmp_path / "store")
    draft.mkdir()
    for name, content in kept.items():
        (draft / name).write_bytes(content)
    draft.with_suffix(".lock").touch()
    prepare(data, CONFIG, tmp_path / "store")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "store"]


def test_plan_of_a_draft_is_removed_last(data, tmp_path, monkeypatch):
    draft, seen = stop(data, tmp_path / "store", 12), []
    rmtree = shutil.rmtree

    def watched(path, **more):
        if Path(path) == draft:
            seen.append(sorted(entry.name for entry in draft.iterdir()))
        rmtree(path, **more)

    monkeypatch.setattr("ctmr.data.drafts.shutil.rmtree", watched)
    prepare(data, CONFIG, tmp_path / "store")
    assert seen == [["plan"]]


def test_full_disk_leaves_no_store(data, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ctmr.data.writing._fill", full)
    with pytest.raises(OutputError, match="cannot write the store \\(No space left on device"):
        prepare(data, CONFIG, tmp_path / "store")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_changed_scan_leaves_nothing(data, tmp_path):
    path = data / "testB" / sorted(os.listdir(data / "testB"))[0]

    def change(done: int, total: int) -> None:
        if done == total // 2:
            path.write_bytes(path.read_bytes() + b" ")

    with pytest.raises(DataError, match="changed while it was read"):
        prepare(data, CONFIG, tmp_path / "store", change)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_fingerprint_is_that_of_one_json_text(tmp_path):
    """As it was when it was computed from one text in memory; so that runs find their data again."""
    info = ImageInfo("HU", 1.0, -1024.0, (0.5, 0.5))
    places = [("train", "ct", "p3"), ("train", "mr", "p1"), ("test", "ct", 'a"\\xff')]
    sources = [
        Source(tmp_path, s, m, tmp_path / name, "image", f"{s}/{m}/{name}.png", None, info)
        for s, m, name in places
    ]
    hashes = [f"{n:064x}" for n in range(3)]
    files = sorted(
        (source.split, source.modality, source.label, sha256)
        for source, sha256 in zip(sources, hashes, strict=True)
    )
    infos = {f"{s} {m}": repr(info) for s, m, _ in places}
    settings = [CONFIG.size, CONFIG.channels, CONFIG.ct_window, CONFIG.pixel_mm, None]
    for reading in (Reading(), Reading(anyway=True)):
        parts = ["ctmr store 2", settings, infos, files]
        parts += [reading.vouched()] if reading.anyway else []
        expected = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        packed = bytes.fromhex("".join(hashes))
        assert _fingerprint(sources, packed, CONFIG, reading) == expected


def test_a_line_tells_scans_a_second_and_the_time_left(caplog):
    caplog.set_level("INFO")
    times = iter((0.0, 10.0, 40.0, 75.0))
    paced = _paced(None, lambda: next(times))
    for done in (20, 80, 150):
        paced(done, 200)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "looked at 80 of 100 scans, 2.0 a second, 0:01:00 left",
        "written 50 of 100 scans, 2.0 a second, 0:00:25 left",
    ]


def test_records_are_80_bytes_or_less_and_sealed():
    from ctmr.data.records import RECORD, Record, packed, unpacked

    record = Record(1, 2, 3, 4, 5, 6, 7, 8, 9.5, b"s" * 32)
    content = packed(record)
    assert len(content) == RECORD.itemsize == 76
    assert unpacked(content)[:-1] == record[:-1]
    seen = np.frombuffer(content, RECORD)[0]
    assert (seen["shard"], seen["width"], seen["height_mm"]) == (1, 4, 9.5)
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1
        assert unpacked(bytes(damaged)) is None
