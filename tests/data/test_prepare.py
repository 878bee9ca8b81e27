import json
import logging
import os
import pickle
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

import ctmr.data.survey
from ctmr.config import PRESETS, DataConfig
from ctmr.data.folders import find_data
from ctmr.data.prepare import prepare
from ctmr.data.store import Store, from_codes, open_store, to_codes
from ctmr.errors import DataError, OutputError, SafetyError, UsageError
from ctmr.imaging.image import Image
from ctmr.imaging.intensity import ct_window
from ctmr.imaging.resampling import Scale
from ctmr.io.codecs import encode
from ctmr.io.image_info import write_image_info
from ctmr.io.images import write_image
from support.heads import write_data

PAPER_NAMES = ("trainA", "trainB", "testA", "testB")
PLAIN_NAMES = ("train/ct", "train/mr", "test/ct", "test/mr")
CONFIG = PRESETS["small"].data.model_copy(update={"size": 32})


def config(**changes: object) -> DataConfig:
    return CONFIG.model_copy(update=changes)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(pixels).save(path)
    return path


def picture(seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)


@pytest.fixture
def data(tmp_path):
    """A data folder with 3 + 2 training and 1 + 1 test images."""
    folder = tmp_path / "data"
    counts = (3, 2, 1, 1)
    for number, (name, count) in enumerate(zip(PAPER_NAMES, counts, strict=True)):
        for n in range(count):
            save(folder / name / f"p{number}{n}_s1.png", picture(10 * number + n))
    return folder


def shard(store: Store) -> Path:
    """Its only shard."""
    return store.path / "slices-00000.u16"


@pytest.fixture
def decodes(monkeypatch):
    """Names of the images whose pixels were decoded, by the first look."""
    seen = []
    decode = ctmr.data.survey.image_of_source

    def counted(source, content):
        seen.append(source.path.name)
        return decode(source, content)

    monkeypatch.setattr(ctmr.data.survey, "image_of_source", counted)
    return seen


# Folders


@pytest.mark.parametrize("names", [PAPER_NAMES, PLAIN_NAMES])
def test_both_layouts_give_the_same_folders(tmp_path, names):
    for name in names:
        (tmp_path / name).mkdir(parents=True)
    paths = [tmp_path / name for name in names]
    assert find_data(tmp_path) == {
        "train": {"ct": paths[0], "mr": paths[1]},
        "test": {"ct": paths[2], "mr": paths[3]},
    }


def test_data_without_test_folders_is_prepared_with_a_note(data, tmp_path, caplog):
    for name in ("testA", "testB"):
        next((data / name).iterdir()).unlink()
        (data / name).rmdir()
    with caplog.at_level(logging.INFO):
        store = prepare(data, CONFIG, tmp_path / "store")
    assert (store.count("train", "ct"), store.count("test", "ct")) == (3, 0)
    assert "no folder testA" in caplog.text


@pytest.mark.parametrize("missing", ["trainA", "trainB"])
def test_missing_training_folder_is_named_with_what_was_found(data, missing):
    (data / missing).rename(data / "other")
    names = "trainA, trainB, testA, testB; or train/ct, train/mr, test/ct, test/mr"
    with pytest.raises(DataError, match=rf"no folder {missing}: expected {names}; found other"):
        prepare(data, CONFIG)


def test_wrong_places_for_data_are_refused(data, tmp_path):
    with pytest.raises(DataError, match=r"nowhere: expected a folder with .*: found nothing"):
        find_data(tmp_path / "nowhere")
    with pytest.raises(DataError, match="found a file"):
        find_data(save(tmp_path / "a.png", picture(0)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no folder trainA and no folder trainB.*an empty folder"):
        find_data(tmp_path / "empty")
    (data / "train" / "ct").mkdir(parents=True)
    with pytest.raises(DataError, match=r"expected one layout .*: found trainA, .*train/ct"):
        find_data(data)


def test_training_folder_without_images_is_refused(data):
    for path in (data / "trainB").iterdir():
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(DataError, match=r"trainB: expected PNG, JPEG or TIFF images.*found none"):
        prepare(data, CONFIG)


def test_hu_in_an_mr_folder_are_refused(data):
    write_image_info(data / "trainB", "HU")
    with pytest.raises(DataError, match=r"trainB: .*HU exist only for CT"):
        prepare(data, CONFIG)


def test_all_unusable_files_are_listed_at_once_and_nothing_is_written(data, tmp_path):
    (data / "trainA" / "empty.png").write_bytes(b"")
    (data / "trainB" / "text.png").write_bytes(b"text")
    (data / "testB" / "new\nline.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError) as caught:
        prepare(data, CONFIG, tmp_path / "store")
    message = str(caught.value)
    assert "3 of 10 scans cannot be used" in message
    for label in ("trainA/empty.png)", "trainB/text.png)", "testB/new\\nline.png)"):
        assert label in message
    assert not (tmp_path / "store").exists()


def test_file_without_permission_is_named(data, tmp_path):
    path = data / "trainA" / "p00_s1.png"
    path.unlink()
    path.symlink_to("/proc/self/mem")  # a regular file that nobody can read
    with pytest.raises(DataError, match=r"p00_s1\.png: cannot read it"):
        prepare(data, CONFIG, tmp_path / "store")


# Grey values


def test_8_bit_values_map_0_to_255(data, tmp_path):
    pixels = np.tile(np.arange(36, dtype=np.uint8) * 7, (36, 1))  # at scale: short side 36
    save(data / "trainA" / "a.png", pixels)
    store = prepare(data, CONFIG, tmp_path / "store")
    assert store.slice("train", "ct", 0)[..., 0] == pytest.approx(pixels / 127.5 - 1, abs=2e-5)


def test_12_bit_values_in_a_16_bit_file_use_the_whole_range(data, tmp_path):
    ramp = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    for path in (data / "trainB").iterdir():
        save(path, ramp)
    save(data / "testB" / next((data / "testB").iterdir()).name, ramp)
    store = prepare(data, config(size=57), tmp_path / "store")  # 1.12 * 57 = 63.84
    values = store.slice("train", "mr", 0)
    assert len(np.unique(values)) > 1000
    assert (values.min(), values.max()) == (-1, 1)
    # 2 * 4096 values: 0.05 % of them are 4.1
    assert store.intensities["mr"]["16-bit"].values == (2.0, 4093.0)


def test_constant_16_bit_images_stay_finite(data, tmp_path, caplog):
    for path in (*(data / "trainB").iterdir(), *(data / "testB").iterdir()):
        save(path, np.full((40, 40), 700, np.uint16))
    store = prepare(data, CONFIG, tmp_path / "store")
    assert store.intensities["mr"]["16-bit"].values == (700.0, 701.0)
    assert np.all(store.slice("train", "mr", 0) == -1)
    assert "3 of 7 images have one grey value only" in caplog.text
    assert re.search(r"3 of 7 scans show nothing like a head: \S+, \S+, \S+\n", caplog.text)


def test_hu_go_through_the_ct_window(data, tmp_path):
    for name in ("trainA", "testA"):
        write_image_info(data / name, "HU")
        for path in (data / name).iterdir():
            if path.suffix == ".png":
                hu = np.full((36, 36), 50.0, np.float32)
                hu[:18] = -100.0
                write_image(path, Image(hu, "HU", 16))
    store = prepare(data, CONFIG, tmp_path / "store")
    assert store.intensities["ct"] == {"HU": ct_window("piecewise")}
    column = store.slice("train", "ct", 0)[:, 0, 0]
    assert column[[0, 35]] == pytest.approx([-0.7, -0.2], abs=2e-5)


def test_commonest_encoding_comes_first_and_a_mixture_is_told(data, tmp_path, caplog):
    save(data / "trainA" / "deep.png", np.arange(1600, dtype=np.uint16).reshape(40, 40))
    store = prepare(data, CONFIG, tmp_path / "store")
    assert list(store.intensities["ct"]) == ["8-bit", "16-bit"]
    assert "ct training images differ in encoding" in caplog.text


def test_test_images_of_another_encoding_are_refused(data):
    save(data / "testA" / "deep.png", np.zeros((40, 40), np.uint16))
    with pytest.raises(DataError, match=r"deep\.png: expected 8-bit values.*found 16-bit"):
        prepare(data, CONFIG)


def test_three_channels_keep_colour(data, tmp_path):
    colour = np.zeros((40, 40, 3), np.uint8)
    colour[:] = (255, 0, 51)
    save(data / "trainB" / "a.png", colour)
    store = prepare(data, config(channels=3), tmp_path / "store")
    assert store.slice("train", "mr", 0)[5, 5] == pytest.approx([1, -1, -0.6], abs=2e-5)
    grey = store.slice("train", "ct", 0)
    assert np.array_equal(grey[..., 0], grey[..., 2])


def test_codes_are_exact_at_both_ends_and_fine_between():
    values = np.linspace(-1, 1, 100_001, dtype=np.float32)
    again = from_codes(to_codes(values))
    assert (again[0], again[-1]) == (-1, 1)
    assert np.abs(again - values).max() <= 1 / 65535 + 1e-7  # half a code, and float32


# Scale


def test_circle_in_a_non_square_image_stays_a_circle(data, tmp_path):
    rows, columns = np.mgrid[:300, :500]
    disc = ((rows - 150) ** 2 + (columns - 200) ** 2 < 100**2) * np.uint8(255)
    disc[150, 200] = 254  # of two values it would be a mask
    save(data / "trainB" / "a.png", disc)
    store = prepare(data, config(size=134), tmp_path / "store")  # 300 -> 150, so radius 50
    inside = store.slice("train", "mr", 0)[..., 0] > 0
    assert inside.shape == (150, 250)
    assert np.ptp(np.nonzero(inside.any(axis=1))) + 1 == pytest.approx(100, abs=1)
    assert np.ptp(np.nonzero(inside.any(axis=0))) + 1 == pytest.approx(100, abs=1)


def test_spacing_of_all_training_images_sets_the_pixel_size(data, tmp_path):
    # Short sides: CT 3 x 40 mm; MR 80 mm and 30 mm. Median 40 mm over 36 pixels.
    write_image_info(data / "trainA", "grey", (1.0, 1.0))
    write_image_info(data / "trainB", "grey", (2.0, 2.0), {"p11_s1.png": (0.75, 1.0)})
    store = prepare(data, CONFIG, tmp_path / "store")
    assert store.scale == Scale(36, 40 / 36)
    shapes = {e.name: (e.height, e.width) for e in store.entries("train", "mr")}
    # 40 x 48 pixels of 2 mm; 30 x 48 mm, whose 27 rows are padded to 32
    assert shapes == {"p10_s1.png": (72, 86), "p11_s1.png": (32, 43)}
    padded = store.slice("train", "mr", 1)[..., 0]
    assert np.all(padded[:2] == -1)
    assert np.all(padded[29:] == -1)
    assert np.all(padded[2:29].std(axis=1) > 0.1)


def test_image_too_long_for_its_width_is_refused_by_name(data, tmp_path):
    save(data / "trainB" / "long.png", picture(0, 20, 500))
    with pytest.raises(DataError, match=r"long\.png: expected .*at most 8 times.*20 x 500"):
        prepare(data, CONFIG, tmp_path / "store")
    assert not (tmp_path / "store").exists()


# The store


def test_store_is_written_once_and_reused(data, tmp_path, decodes):
    first = prepare(data, CONFIG, tmp_path / "store")
    assert sorted(decodes)[0] == "p00_s1.png"
    assert len(decodes) == 7
    stamp = shard(first).stat().st_mtime_ns
    second = prepare(data, CONFIG, tmp_path / "store")
    assert len(decodes) == 7
    assert shard(first).stat().st_mtime_ns == stamp
    assert second.fingerprint == first.fingerprint


def test_store_goes_to_the_cache_under_its_fingerprint(data, tmp_path, monkeypatch):
    monkeypatch.setenv("CTMR_CACHE", str(tmp_path / "cache"))
    store = prepare(data, CONFIG)
    assert store.path == tmp_path / "cache" / "stores" / store.fingerprint[:16]
    assert [path.name for path in store.path.parent.iterdir()] == [store.path.name]
    monkeypatch.delenv("CTMR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert prepare(data, CONFIG).path.parent == tmp_path / "xdg" / "ctmr" / "stores"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert prepare(data, CONFIG).path.parent == tmp_path / "home" / ".cache" / "ctmr" / "stores"


def test_fingerprint_changes_with_all_that_matters(data, tmp_path, monkeypatch):
    monkeypatch.setenv("CTMR_CACHE", str(tmp_path / "cache"))
    changes = ({}, {"size": 34}, {"channels": 3}, {"ct_window": "wide"}, {"patient_pattern": "(p)"})
    seen = [prepare(data, config(**change)).fingerprint for change in changes]
    assert prepare(data, config(flip=False)).fingerprint == seen[0]
    save(data / "trainA" / "p00_s1.png", picture(77))
    seen.append(prepare(data, CONFIG).fingerprint)
    (data / "trainA" / "p00_s1.png").rename(data / "trainA" / "q.png")
    seen.append(prepare(data, CONFIG).fingerprint)
    write_image_info(data / "trainA", "grey", (1.0, 1.0))
    seen.append(prepare(data, CONFIG).fingerprint)
    assert len(set(seen)) == len(seen) == 8


def test_fingerprint_does_not_depend_on_where_the_data_lie(data, tmp_path, monkeypatch):
    monkeypatch.setenv("CTMR_CACHE", str(tmp_path / "cache"))
    first = prepare(data, CONFIG)
    data.rename(tmp_path / "moved")
    assert prepare(tmp_path / "moved", CONFIG).fingerprint == first.fingerprint


def test_damaged_store_in_the_cache_is_made_again(data, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("CTMR_CACHE", str(tmp_path / "cache"))
    store = prepare(data, CONFIG)
    os.truncate(shard(store), 1000)
    again = prepare(data, CONFIG)
    assert "the cached store cannot be used" in caplog.text
    assert again.slice("test", "mr", 0).shape == (36, 43, 1)
    (aside,) = store.path.parent.glob("*.damaged")  # it could hold files of others
    assert (aside / shard(store).name).stat().st_size == 1000


def test_given_place_with_something_else_is_left_alone(data, tmp_path):
    prepare(data, CONFIG, tmp_path / "store")
    with pytest.raises(OutputError, match="found a store of other data or settings"):
        prepare(data, config(size=34), tmp_path / "store")
    with pytest.raises(OutputError, match="data: expected a new or empty folder for the store"):
        prepare(data, CONFIG, data)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write the store"):
        prepare(data, CONFIG, tmp_path / "file" / "store")


def test_store_stands_in_for_the_data_if_its_settings_are_those_asked_for(data, tmp_path):
    made = config(patient_pattern="(p..)")
    store = prepare(data, made, tmp_path / "store")
    assert prepare(tmp_path / "store", CONFIG).fingerprint == store.fingerprint
    for changes in (
        {"size": 34},
        {"channels": 3},
        {"ct_window": "wide"},
        {"patient_pattern": "(s)"},
    ):
        ((key, value),) = changes.items()
        with pytest.raises(
            UsageError, match=rf"made with data\.{key} = .*asks for {re.escape(repr(value))}"
        ):
            prepare(tmp_path / "store", config(**changes))


def test_process_that_comes_second_waits_and_takes_the_store_of_the_first(data, tmp_path, caplog):
    with ThreadPoolExecutor(1) as second:
        others = []

        def another(done, total):
            if not others:  # the first already writes
                others.append(second.submit(prepare, data, CONFIG, tmp_path / "store"))
                while "waiting for it" not in caplog.text:
                    time.sleep(0.01)

        first = prepare(data, CONFIG, tmp_path / "store", another)
        stamp = (first.path / "store.json").stat().st_mtime_ns
        assert others[0].result(timeout=60).fingerprint == first.fingerprint
    assert (first.path / "store.json").stat().st_mtime_ns == stamp
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "store"]


def test_progress_runs_to_its_end(data, tmp_path):
    calls = []
    prepare(data, CONFIG, tmp_path / "store", lambda done, total: calls.append((done, total)))
    assert calls[-1] == (14, 14)
    assert calls == sorted(calls)


def test_image_that_changes_meanwhile_is_refused(data, tmp_path):
    def change(done, total):
        save(data / "testB" / "p30_s1.png", picture(99))

    with pytest.raises(DataError, match=r"p30_s1\.png: the file changed while it was read"):
        prepare(data, CONFIG, tmp_path / "store", change)
    assert not (tmp_path / "store").exists()


def test_file_that_comes_back_between_two_looks_asks_for_another_run(data, monkeypatch):
    monkeypatch.setattr("ctmr.data.prepare.hash_all", lambda *_: None)
    with pytest.raises(DataError, match="files changed while they were read"):
        prepare(data, CONFIG)


def test_opened_store_says_what_it_holds(data, tmp_path):
    prepare(data, CONFIG, tmp_path / "store")
    store = open_store(tmp_path / "store")
    assert "train ct 3, train mr 2, test ct 1, test mr 1" in repr(store)
    assert [entry.name for entry in store.entries("train", "mr")] == ["p10_s1.png", "p11_s1.png"]
    before = store.slice("train", "mr", 1)
    assert (before.dtype, before.shape) == (np.float32, (36, 43, 1))
    again = pickle.loads(pickle.dumps(store))  # noqa: S301 - as a loader worker gets it
    assert np.array_equal(again.slice("train", "mr", 1), before)


def edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


@pytest.fixture
def store(data, tmp_path):
    return prepare(data, CONFIG, tmp_path / "store")


def test_incomplete_or_foreign_store_is_refused(store):
    head, length = store.path / "store.json", shard(store).stat().st_size
    os.truncate(shard(store), length - 2)
    with pytest.raises(DataError, match=rf"u16: expected {length} bytes, found {length - 2}"):
        open_store(store.path)
    shard(store).unlink()
    with pytest.raises(DataError, match=r"slices-00000\.u16: the store lacks this file"):
        open_store(store.path)
    edit(head, format="ctmr store 0")
    with pytest.raises(DataError, match="is not of 'ctmr store 4': format"):
        open_store(store.path)
    head.write_text("{")
    with pytest.raises(DataError, match="is not of 'ctmr store 4'"):
        open_store(store.path)
    head.unlink()
    with pytest.raises(DataError, match="expected a store"):
        open_store(store.path)


def test_index_that_is_not_of_these_shards_is_refused(store):
    """Longer or shorter than the shards, with a `store.json` that believes it."""
    head, index = store.path / "store.json", store.path / "index.bin"
    text, records = head.read_text(), index.read_bytes()
    size = len(records) // 7
    index.write_bytes(records[:-size])
    with pytest.raises(DataError, match=rf"expected {7 * size} bytes, found {6 * size}"):
        open_store(store.path)
    content = json.loads(text)
    content["parts"]["index.bin"]["bytes"] = 6 * size
    head.write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"expected {7 * size} bytes for 7 slices"):
        open_store(store.path)
    content["counts"]["test"]["mr"] = 0
    head.write_text(json.dumps(content))
    with pytest.raises(DataError, match="expected 1 shards up to the index's last slice"):
        open_store(store.path)
    del content["parts"]["index.bin"]
    head.write_text(json.dumps(content))
    with pytest.raises(DataError, match="for 6 slices, found none"):
        open_store(store.path)


def flip_a_bit(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_flipped_bit_is_found_when_its_slice_is_read(store):
    """Opening reads no slice; the others stay usable."""
    record = store.record(1)
    flip_a_bit(shard(store), record.offset + 100)
    opened = open_store(store.path)
    assert opened.slice("train", "ct", 0).shape == (36, 43, 1)
    match = r"slices-00000\.u16: slice 1 of train ct, p01_s1\.png: damaged: expected checksum \w+"
    with pytest.raises(DataError, match=match):
        opened.slice("train", "ct", 1)
    with pytest.raises(DataError, match="1 of 3 files are not what was written: slices-00000"):
        opened.verify()
    with pytest.raises(DataError, match="1 of 3 files are not"):
        prepare(store.path, CONFIG, verify=True)


def test_flipped_bit_in_the_index_or_the_names_is_found(store):
    flip_a_bit(store.path / "index.bin", 80)
    opened = open_store(store.path)
    with pytest.raises(DataError, match=r"index\.bin: damaged: the record of slice 1 "):
        opened.slice("train", "ct", 1)
    flip_a_bit(store.path / "names.bin", 0)
    with pytest.raises(DataError, match="2 of 3 files are not what was written: index"):
        opened.verify()


def test_lists_that_are_no_json_are_refused(data, tmp_path):
    save(data / "testA" / "copy.png", picture(1))
    store = prepare(data, CONFIG, tmp_path / "store")
    length = (store.path / "overlap.json").stat().st_size
    (store.path / "overlap.json").write_bytes(b"x" * length)
    with pytest.raises(DataError, match=r"overlap\.json: damaged: it is not JSON"):
        _ = open_store(store.path).overlap


def test_shard_that_is_cut_or_removed_while_it_is_read_is_named(store):
    """A memory map would end the process with SIGBUS."""
    assert store.slice("train", "ct", 0).size
    os.truncate(shard(store), store.record(6).offset + 10)
    match = r"slices-00000\.u16: slice 0 of test mr, p30_s1\.png: cut off: expected \d+ bytes"
    with pytest.raises(DataError, match=match):
        store.slice("test", "mr", 0)
    shard(store).unlink()
    match = (
        r"slices-00000\.u16: slice 0 of train ct, p00_s1\.png: cannot read it \(it was removed\)"
    )
    with pytest.raises(DataError, match=match):
        store.slice("train", "ct", 0)
    again = pickle.loads(pickle.dumps(store))  # noqa: S301 - which has not opened it
    with pytest.raises(DataError, match=r"p00_s1\.png: cannot read it \(No such file"):
        again.slice("train", "ct", 0)
    shutil.rmtree(store.path)
    with pytest.raises(DataError, match=r"index\.bin: cannot read it"):
        again.slice("train", "ct", 0)


def test_damaged_store_in_the_cache_is_made_again_when_it_is_verified(data, caplog):
    first = prepare(data, CONFIG)
    before = shard(first).read_bytes()
    flip_a_bit(shard(first), 100)
    again = prepare(data, CONFIG, verify=True)
    assert "cannot be used and is made again" in caplog.text
    assert shard(again).read_bytes() == before


def test_shards_hold_no_more_than_their_limit(data, tmp_path, monkeypatch):
    whole = prepare(data, CONFIG, tmp_path / "whole")
    monkeypatch.setattr("ctmr.data.planning.SHARD_BYTES", 7000)  # two slices of 36 x 43
    parts = prepare(data, CONFIG, tmp_path / "parts")
    sizes = [path.stat().st_size for path in sorted(parts.path.glob("slices-*"))]
    assert sizes == [6192, 6192, 6192, 3096]
    for split in ("train", "test"):
        for modality in ("ct", "mr"):
            for n in range(whole.count(split, modality)):
                same = (store.codes(split, modality, n) for store in (whole, parts))
                assert np.array_equal(*same)


def test_many_shards_are_read_with_few_open_files(data, tmp_path, monkeypatch):
    monkeypatch.setattr("ctmr.data.planning.SHARD_BYTES", 1)
    monkeypatch.setattr("ctmr.data.parts.MAX_OPEN", 2)
    store = prepare(data, CONFIG, tmp_path / "store")
    before = len(os.listdir("/proc/self/fd"))
    assert [store.slice("train", "ct", n).shape for n in (0, 1, 2, 0)] == [(36, 43, 1)] * 4
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_worker_gets_no_index(store):
    """However many slices there are: a path, and what `store.json` says."""
    assert len(pickle.dumps(store)) < 5000
    assert [entry.name for entry in store.entries("train", "ct")[1:]] == [
        "p01_s1.png",
        "p02_s1.png",
    ]
    assert store.trained_on({store.entries("train", "mr")[1].sha256, "0" * 64}) == {
        store.entries("train", "mr")[1].sha256
    }
    assert store.trained_on({store.entries("test", "mr")[0].sha256}) == set()


# Patients and overlap


def test_same_file_in_train_and_test_is_told_once_and_kept(data, tmp_path, caplog):
    save(data / "testA" / "copy.png", picture(1))
    store = prepare(data, CONFIG, tmp_path / "store")
    (overlap,) = store.overlap
    assert (overlap.train, overlap.test) == ("trainA/p01_s1.png", "testA/copy.png")
    assert overlap.why == "identical"
    told = [r.getMessage() for r in caplog.records if "test images are in" in r.getMessage()]
    assert len(told) == 1
    assert "1 test images" in told[0]
    assert "testA/copy.png = trainA/p01_s1.png (identical)" in told[0]


def test_same_patient_in_train_and_test_is_told(data, tmp_path, caplog):
    save(data / "testB" / "p10_s9.png", picture(123))
    store = prepare(data, config(patient_pattern=r"/(p\d+)_"), tmp_path / "store")
    assert [entry.patient for entry in store.entries("train", "ct")] == ["p00", "p01", "p02"]
    assert [(o.test, o.why) for o in store.overlap] == [("testB/p10_s9.png", "patient")]
    assert "of the same patients" in caplog.text


@pytest.mark.parametrize(
    ("pattern", "why"), [("(", "is not a regular expression"), ("p..", "has no group")]
)
def test_pattern_that_cannot_name_a_patient_is_refused(data, pattern, why):
    with pytest.raises(UsageError, match=rf"data\.patient_pattern = .*{why}"):
        prepare(data, config(patient_pattern=pattern))


def test_names_of_any_bytes_are_prepared(data, tmp_path):
    for name in (b"\xff.png", b"x\n.png", b"-x.png", b"a" * 251 + b".png", b"P10_S1.PNG"):
        (data / "trainB" / os.fsdecode(name)).write_bytes(encode(picture(5), "PNG"))
    store = prepare(data, CONFIG, tmp_path / "store")
    names = [entry.name for entry in open_store(store.path).entries("train", "mr")]
    assert len(set(names)) == 7
    assert "\\xff.png" in names


def test_training_folder_that_is_a_file_is_named_as_missing(tmp_path):
    data = write_data(tmp_path / "data")
    shutil.rmtree(data / "trainB")
    (data / "trainB").write_text("x")
    with pytest.raises(DataError, match="no folder trainB: expected trainA, trainB, testA"):
        find_data(data)


def test_exchanged_folders_of_images_are_refused(tmp_path, tiny_config):
    data = write_data(tmp_path / "data")
    (data / "trainA").rename(data / "away")
    (data / "trainB").rename(data / "trainA")
    (data / "away").rename(data / "trainB")
    match = "found 8 of 8 in trainA and 10 of 10 in trainB that look like the other"
    with pytest.raises(SafetyError, match=match):
        prepare(data, tiny_config.data, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_folder_of_the_other_modality_is_told(tmp_path, tiny_config, caplog):
    data = write_data(tmp_path / "data")
    shutil.rmtree(data / "trainA")
    shutil.copytree(data / "trainB", data / "trainA")
    prepare(data, tiny_config.data, tmp_path / "store")
    assert "8 of 8 in trainA look like the other modality: see ctmr audit" in caplog.text


def test_cache_is_for_its_user_alone(tiny_data, tiny_config, tmp_path, monkeypatch):
    monkeypatch.setenv("CTMR_CACHE", str(tmp_path / "cache"))
    store = prepare(tiny_data, tiny_config.data)
    assert store.path.is_relative_to(tmp_path / "cache")
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    shared = prepare(tiny_data, tiny_config.data, tmp_path / "shared")
    assert shared.path.stat().st_mode & 0o777 != 0o700


def test_cache_that_may_not_be_looked_into_is_refused(
    tiny_data, tiny_config, tmp_path, monkeypatch
):
    monkeypatch.setenv("CTMR_CACHE", str(tmp_path / "cache"))
    exists = Path.exists

    def not_allowed(path, **options):  # as for a user who is not root
        if path.parent.name == "stores":
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path, **options)

    monkeypatch.setattr(Path, "exists", not_allowed)
    with pytest.raises(OutputError, match=r"Permission denied.*set CTMR_CACHE to another folder"):
        prepare(tiny_data, tiny_config.data)


def test_mr_test_picture_of_another_depth_is_mapped_by_its_own_percentiles(data, tmp_path):
    """An MR has no unit: a picture of 16 bits gives one slice whatever its grey values are scaled by."""
    rng = np.random.default_rng(4)
    rows, columns = np.mgrid[:40, :40]
    grey = 200 * ((rows - 20) ** 2 + (columns - 20) ** 2 < 200) + rng.integers(0, 50, (40, 40))
    save(data / "testB" / "deep1.png", (grey * 37 + 11).astype(np.uint16))
    save(data / "testB" / "deep2.png", (grey * 200 + 700).astype(np.uint16))
    store = prepare(data, CONFIG, tmp_path / "store")
    names = [entry.name for entry in store.entries("test", "mr")]
    one, two = (store.slice("test", "mr", names.index(f"deep{n}.png")) for n in (1, 2))
    np.testing.assert_allclose(one, two, atol=1e-3)
    assert one.min() < -0.9
    assert one.max() > 0.9
