import hashlib
import json
import os

import numpy as np
import pytest

from ctmr import write_scan
from ctmr.errors import OutputError, UsageError
from ctmr.imaging.image import Image
from ctmr.io.image_info import read_image_info, write_image_info
from ctmr.io.images import write_image
from ctmr.system.ownership import (
    LIST_NAME,
    digest_of,
    is_own,
    is_own_extra,
    listing,
    read_sealed,
    require_own,
    sealed,
    write_own,
)
from ctmr.translation.batch import translate_files
from support.identity import HU, translator


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def grey(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (40, 44)).astype(np.float32)


def scan(path, seed=0):
    write_image(path, Image(grey(seed), "grey", 8))
    return path


# Seals


def test_sealed_object_comes_back_and_a_changed_one_does_not(tmp_path):
    content = {"sha256": "0" * 64, "seal of": ["ä", 1.5, None]}
    place = tmp_path / "a.json"
    place.write_bytes(sealed(content))
    assert read_sealed(place) == content
    assert json.loads(place.read_bytes()) == {
        **content,
        "seal": json.loads(place.read_bytes())["seal"],
    }
    place.write_bytes(sealed(content).replace(b"1.5", b"1.6"))
    assert read_sealed(place) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"seal": "' + b"0" * 64 + b'"}', b"\xff"])
def test_other_files_bear_no_seal(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    assert read_sealed(tmp_path / "a.json") is None


def test_hash_of_a_folder_is_of_all_names_and_contents_in_it(tmp_path):
    folder = tmp_path / "series"
    (folder / "below").mkdir(parents=True)
    (folder / "a.dcm").write_bytes(b"a")
    first = digest_of(folder)
    (folder / "below" / "b.dcm").write_bytes(b"b")
    second = digest_of(folder)
    (folder / "below" / "b.dcm").rename(folder / "below" / "c.dcm")
    assert len({first, second, digest_of(folder)}) == 3
    os.mkfifo(folder / "pipe")  # is not waited for
    assert digest_of(folder) is None


# The list of a folder


def test_file_on_the_list_is_replaced_and_one_that_was_changed_is_kept(tmp_path, monkeypatch):
    place = tmp_path / "new" / "metrics.json"

    def killed(*_):
        raise KeyboardInterrupt

    write_own(place, b"first")
    with monkeypatch.context() as patch:  # after the list was written, before the file
        patch.setattr("ctmr.system.ownership.write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            write_own(place, b"second")
    assert read_sealed(place.parent / LIST_NAME)["files"] == {
        "metrics.json": [sha256(b"second"), sha256(b"first")]
    }
    write_own(place, b"third")
    assert read_sealed(place.parent / LIST_NAME)["files"] == {"metrics.json": [sha256(b"third")]}
    place.write_bytes(b"edited by hand")
    with pytest.raises(OutputError, match=r"metrics\.json: expected no file there, or one that"):
        write_own(place, b"fourth")
    assert place.read_bytes() == b"edited by hand"
    write_own(place, b"fourth", overwrite=True)
    assert place.read_bytes() == b"fourth"
    place.write_bytes(b"edited by hand")  # what was replaced on demand was not ctmr's
    assert not is_own(place)


@pytest.mark.parametrize("make", ["file", "folder", "fifo", "dangling", "link"])
def test_anything_of_others_is_kept(tmp_path, make):
    place = tmp_path / "report.json"
    if make == "file":
        place.write_bytes(b"")
    elif make == "folder":
        place.mkdir()
    elif make == "fifo":
        os.mkfifo(place)
    else:
        place.symlink_to(tmp_path / "target")
        if make == "link":
            (tmp_path / "target").write_bytes(b"of others")
    with pytest.raises(OutputError, match="found another, which is kept"):
        write_own(place, b"new")
    assert os.path.lexists(place)
    assert not (tmp_path / LIST_NAME).exists()


@pytest.mark.parametrize("content", [b"{}", b"a list of mine", sealed({"files": {}})[:-2] + b" \n"])
def test_list_of_others_is_kept_even_if_all_may_be_overwritten(tmp_path, content):
    (tmp_path / LIST_NAME).write_bytes(content)
    with pytest.raises(OutputError, match=r"\.ctmr-outputs\.json: expected the list of files"):
        write_own(tmp_path / "a.json", b"new", overwrite=True)
    assert (tmp_path / LIST_NAME).read_bytes() == content
    assert not (tmp_path / "a.json").exists()


def test_empty_list_of_a_killed_process_is_no_hindrance(tmp_path):
    (tmp_path / LIST_NAME).touch()
    write_own(tmp_path / "a.json", b"new")
    assert is_own(tmp_path / "a.json")


def test_list_is_not_made_where_nothing_is_written(tmp_path):
    with pytest.raises(KeyError), listing(tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_all_files_of_others_are_counted_and_three_named(tmp_path):
    paths = [tmp_path / f"{n}.png" for n in range(5)]
    for path in paths:
        path.write_bytes(b"real")
    with pytest.raises(OutputError, match=r"0\.png: .*and 4 more \(1\.png, 2\.png, \.\.\.\)"):
        require_own(paths, overwrite=False)


def test_figures_are_told_from_scans(tmp_path):
    write_own(tmp_path / "comparison.png", b"a figure")
    write_scan(tmp_path / "scan.png", Image(grey(), "grey", 8))
    assert is_own_extra(tmp_path / "comparison.png")
    assert not is_own_extra(tmp_path / "scan.png")
    (tmp_path / "comparison.png").write_bytes(b"a real scan")
    assert not is_own_extra(tmp_path / "comparison.png")


# Inputs


@pytest.mark.parametrize("overwrite", [False, True])
def test_list_of_others_is_found_before_any_work(tmp_path, overwrite):
    (tmp_path / LIST_NAME).write_text("a list of mine")
    with pytest.raises(OutputError, match=r"\.ctmr-outputs\.json: expected the list of files"):
        require_own([tmp_path / "metrics.json"], overwrite=overwrite)
    beside = {tmp_path / "a.png": tmp_path / "a.json"}
    require_own([*beside, *beside.values()], overwrite=overwrite, sidecars=beside)  # needs no list


@pytest.mark.parametrize("overwrite", [False, True])
def test_file_in_the_place_of_a_folder_is_kept_before_any_work(tmp_path, overwrite):
    (tmp_path / "quality").write_bytes(b"of others")
    with pytest.raises(OutputError, match=r"quality: expected a folder, or nothing: found a file"):
        require_own([tmp_path / "quality" / "below" / "a.png"], overwrite=overwrite)


@pytest.mark.parametrize("how", ["itself", "hard link", "link", "folder"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_input_is_not_replaced_under_any_name(tmp_path, how, overwrite):
    source = scan(tmp_path / "in" / "real.png")
    target = {"itself": source, "folder": tmp_path / "in"}.get(how, tmp_path / "out.png")
    if how == "hard link":
        os.link(source, target)
    elif how == "link":
        target.symlink_to(source)
    with pytest.raises(UsageError, match="would overwrite an input"):
        require_own([target], overwrite=overwrite, inputs=[tmp_path / "in"])


# Translations


@pytest.fixture
def patient(tmp_path):
    """A folder with a real CT, a real MR and the JSON files that their conversion left."""
    for n, name in enumerate(("ct", "mr")):
        scan(tmp_path / "patient" / f"{name}.png", n)
        (tmp_path / "patient" / f"{name}.json").write_text('{"Modality": "of others"}')
    return tmp_path / "patient"


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["ct.png", "other.png"])
def test_real_scan_and_the_json_beside_it_are_kept(patient, name):
    if name == "other.png":
        (patient / "other.json").write_text("{}")
    before = contents(patient)
    with pytest.raises(OutputError, match="found another, which is kept"):
        translate_files(translator(), patient / "mr.png", patient / name, "ct")
    assert contents(patient) == before


def test_real_scans_of_the_same_names_are_all_kept(tmp_path):
    for folder in ("testA", "testB"):
        for n in range(20):
            scan(tmp_path / folder / f"{n}.png", n)
    before = contents(tmp_path)
    with pytest.raises(OutputError, match="and 19 more"):
        translate_files(translator(), tmp_path / "testA", tmp_path / "testB", "ct")
    assert contents(tmp_path) == before


def test_overwrite_replaces_files_of_others_and_no_input(patient):
    mr = (patient / "mr.png").read_bytes()
    translate_files(translator(), patient / "mr.png", patient / "ct.png", "ct", overwrite=True)
    assert is_own(patient / "ct.png")
    assert is_own(patient / "ct.json")
    os.link(patient / "mr.png", patient / "again.png")
    with pytest.raises(UsageError, match="would overwrite an input"):
        translate_files(
            translator(), patient / "mr.png", patient / "again.png", "ct", overwrite=True
        )
    assert (patient / "mr.png").read_bytes() == mr


def test_map_of_others_is_kept(tmp_path):
    source = scan(tmp_path / "a.png")
    (tmp_path / "out" / "quality").mkdir(parents=True)
    (tmp_path / "out" / "quality" / "a_disagreement.png").write_bytes(b"of others")
    with pytest.raises(OutputError, match=r"a_disagreement\.png: .* which is kept"):
        translate_files(translator(), source, tmp_path / "out", "ct", quality="full")
    translate_files(translator(), source, tmp_path / "out", "ct")  # without maps it is in no way
    assert (tmp_path / "out" / "quality" / "a_disagreement.png").read_bytes() == b"of others"


def test_maps_and_previews_are_known_as_no_scans_by_their_sidecar(tmp_path):
    source = scan(tmp_path / "a_b.png")
    out = tmp_path / "out"
    out.mkdir()
    translate_files(translator(), source, out, "ct", quality="full")
    assert not is_own_extra(out / "a_b.png")
    assert is_own_extra(out / "a_b.preview.png")
    for name in ("a_b_cycle_error.png", "a_b_disagreement.png"):
        assert is_own_extra(out / "quality" / name)
    scan(out / "quality" / "a_b_disagreement.png", 7)
    assert not is_own_extra(out / "quality" / "a_b_disagreement.png")


@pytest.mark.parametrize("overwrite", [False, True])
def test_ctmr_json_of_others_is_never_changed(tmp_path, overwrite):
    source = scan(tmp_path / "a.png")
    out = tmp_path / "out"
    write_image_info(out, "HU")
    before = contents(out)
    model = translator(ct={"HU": HU})
    translate_files(model, source, out, "ct", overwrite=overwrite)  # it says HU already
    assert (out / "ctmr.json").read_bytes() == before["ctmr.json"]
    write_image_info(source.parent, "grey", (2.0, 2.0))
    with pytest.raises(OutputError, match="ctmr did not write it: it is kept"):
        translate_files(model, source, out, "ct", overwrite=overwrite)
    (out / "ctmr.json").write_text('{"who": "somebody else"}')
    with pytest.raises(OutputError, match=r"ctmr\.json: expected keys among"):
        translate_files(model, source, out, "ct", overwrite=overwrite)
    assert (out / "ctmr.json").read_text() == '{"who": "somebody else"}'


def test_scan_put_in_place_of_a_translation_is_kept(tmp_path):
    source = scan(tmp_path / "a.png")
    out = tmp_path / "out"
    out.mkdir()
    translate_files(translator(), source, out, "ct")
    translate_files(translator(), source, out, "ct")  # its own it replaces
    scan(out / "a.png", 5)
    real = (out / "a.png").read_bytes()
    for resume in (False, True):
        with pytest.raises(OutputError, match="which is kept"):
            translate_files(translator(), source, out, "ct", resume=resume)
    assert (out / "a.png").read_bytes() == real


# From Python


def test_scan_written_from_python_replaces_no_file_of_others(tmp_path):
    scan(tmp_path / "a.png")
    real = (tmp_path / "a.png").read_bytes()
    image = Image(grey(3), "grey", 8)
    with pytest.raises(OutputError, match=r"a\.png: .* which is kept"):
        write_scan(tmp_path / "a.png", image)
    assert (tmp_path / "a.png").read_bytes() == real
    write_scan(tmp_path / "a.png", image, overwrite=True)
    write_scan(tmp_path / "a.png", Image(grey(4), "grey", 8))


def test_scans_written_one_by_one_all_keep_their_spacing(tmp_path):
    for n in range(4):
        write_scan(tmp_path / f"{n}.png", Image(grey(n), "HU", 16, (n + 1.0, n + 1.0)))
    assert read_image_info(tmp_path).files == {f"{n}.png": (n + 1.0, n + 1.0) for n in range(4)}
