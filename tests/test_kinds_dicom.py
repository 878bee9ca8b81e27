"""DICOM folders as hospitals and archives hand them over, each through the whole program and read again by SimpleITK."""

import errno
import json
import logging
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from pydicom import dcmread, dcmwrite, uid
from pydicom.dataset import FileMetaDataset

from ctmr.system import disks
from support.dicom_series import edit, enhanced
from support.whole_program import (
    CT,
    HEAD,
    MR,
    TINY,
    called,
    file_of,
    object_of,
    pixels_of,
    seen,
    series_of,
)

RT = "1.2.840.10008.5.1.4.1.1.481."
ROOT = "1.2.840.10008.5.1.4.1.1."
Spoil = Callable[[list[Path]], None]


def translate(run: Path, source: Path, out: Path, to: str, *options: str, code: int = 0) -> str:
    words = ("--model", run, "--to", to, "--quality", "none")
    return called("translate", source, out, *words, *options, code=code)


@pytest.fixture(scope="module")
def plain(tiny_volume_run, tmp_path_factory) -> dict[str, np.ndarray]:
    """The translations of the sound series, by what they were made of."""
    place = tmp_path_factory.mktemp("plain")
    for name, array in (("ct", CT), ("mr", MR)):
        series_of(place / name, array)
        translate(
            tiny_volume_run, place / name, place / f"{name}_out", "ct" if name == "mr" else "mr"
        )
    return {name: pixels_of(place / f"{name}_out") for name in ("ct", "mr")}


# K5: other files beside slices


def objects(*kinds: tuple[str, str]) -> Spoil:
    def write(paths: list[Path]) -> None:
        for n, (modality, sop_class) in enumerate(kinds):
            object_of(paths[0].with_name(f"X{n}.dcm"), modality, sop_class)

    return write


def texts(paths: list[Path]) -> None:
    folder = paths[0].parent
    Pillow.new("L", (8, 8)).save(folder / "preview.jpg")
    (folder / "protocol.pdf").write_bytes(b"%PDF-1.4 synthetic")
    (folder / "table.csv").write_text("a,b\n")


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (objects(("RTSTRUCT", RT + "3"), ("RTPLAN", RT + "5"), ("RTDOSE", RT + "2")), "3 radiotherapy objects"),
        (objects(("SR", ROOT + "88.67"), ("KO", ROOT + "88.59")), "2 reports"),
        (objects(("SEG", ROOT + "66.4"), ("REG", ROOT + "66.1")), "2 segmentations and registrations"),
        (objects(("PR", ROOT + "11.1")), "1 presentation states"),
        (objects(("DOC", ROOT + "104.1")), "1 documents"),
        (objects(("US", ROOT + "6.1")), "1 DICOM objects that are neither CT nor MR"),
        (texts, "3 files that are not DICOM"),
    ],
    ids=["radiotherapy", "reports", "segmentations", "presentation", "document", "ultrasound", "texts"],
)  # fmt: skip
def test_other_files_beside_slices_are_left_out_and_counted(
    tmp_path, tiny_volume_run, plain, write, said
):
    write(series_of(tmp_path / "in", CT))
    translate(tiny_volume_run, tmp_path / "in", tmp_path / "out", "mr")
    assert f"{said} left out" in json.loads((tmp_path / "out.json").read_text())["notes"]
    assert np.array_equal(pixels_of(tmp_path / "out"), plain["ct"])


# K6: lean or odd headers


def without(*keywords: str) -> Spoil:
    def spoil(paths: list[Path]) -> None:
        for path in paths:
            edit(path, lambda image: [image.pop(keyword, None) for keyword in keywords])

    return spoil


def new_for_each(*keywords: str) -> Spoil:
    def spoil(paths: list[Path]) -> None:
        for k, path in enumerate(paths):
            edit(path, **{keyword: f"2.25.{n}{k}" for n, keyword in enumerate(keywords, 1)})

    return spoil


def without_preamble(paths: list[Path]) -> None:
    for path in paths:
        image = dcmread(path)
        image.file_meta, image.preamble = FileMetaDataset(), None
        dcmwrite(path, image, implicit_vr=True, little_endian=True)


def copied(paths: list[Path]) -> None:
    for path in paths[2:5]:
        shutil.copy(path, path.with_name(f"copy_{path.name}"))


def blank(paths: list[Path]) -> None:
    for path in paths:
        edit(path, PatientID="", SliceThickness=None, StudyInstanceUID="")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without("SOPClassUID"), "no SOPClassUID (0008,0016)"),
        (without("SeriesInstanceUID", "RescaleType"), "no SeriesInstanceUID (0020,000E)"),
        (without("SliceThickness", "ImageType", "InstanceNumber"), "no SliceThickness (0018,0050)"),
        (without_preamble, None),
        (new_for_each("SeriesInstanceUID", "SOPInstanceUID"), "12 different SeriesInstanceUID"),
        (new_for_each("StudyInstanceUID", "FrameOfReferenceUID"), "12 different FrameOfReference"),
        (copied, "3 copies of slices left out"),
        (blank, "no StudyInstanceUID (0020,000D)"),
    ],
    ids=["class", "series", "thickness", "preamble", "series new", "study new", "copies", "blank"],
)
def test_lean_series_is_translated_as_the_full_one(tmp_path, tiny_volume_run, plain, spoil, said):
    spoil(series_of(tmp_path / "in", CT))
    translate(tiny_volume_run, tmp_path / "in", tmp_path / "out", "mr")
    assert np.array_equal(pixels_of(tmp_path / "out"), plain["ct"])
    notes = json.loads((tmp_path / "out.json").read_text()).get("notes", [])
    assert sum(note.startswith(said) for note in notes) == 1 if said else not notes
    headers = [dcmread(path) for path in (tmp_path / "out").glob("*.dcm")]
    assert len({header.SOPInstanceUID for header in headers}) == len(headers) == CT.shape[2]
    assert len({header.SeriesInstanceUID for header in headers}) == 1


# K7: several series in one place


def written(out: Path) -> set[str]:
    return {path.parent.relative_to(out).as_posix() for path in out.rglob("slice_0001.dcm")}


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ((), ["2"]),
        (("--series", "4"), ["4"]),
        (("--series", "2.25.2"), ["2"]),
        (("--series", "2", "--series", "4"), ["2", "4"]),
        (("--series", "all"), ["2", "4"]),
    ],
    ids=["none", "number", "uid", "two", "all"],
)
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_series_of_a_flat_study_are_chosen(
    tmp_path, tiny_volume_run, plain, caplog, options, taken, form
):
    study = tmp_path / "study"
    series_of(study, CT, 2)
    series_of(study, CT - 1, 4)  # of equals the lower number is taken
    series_of(study, MR, 5)
    scout = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    for path in series_of(study, CT, 1, ImageType=scout)[2:]:
        path.unlink()
    source = study if form == "folder" else zipped(tmp_path / "study.zip", study)
    caplog.set_level(logging.INFO, "ctmr.found")
    translate(tiny_volume_run, source, tmp_path / "out", "mr", *options)
    assert [line.split()[1] for line in caplog.messages if line.startswith("*")] == taken
    folders = [f"s{number}_1" for number in taken] if len(taken) > 1 else ["."]
    assert written(tmp_path / "out") == set(folders)
    for number, folder in zip(taken, folders, strict=True):
        same = np.array_equal(pixels_of(tmp_path / "out" / folder), plain["ct"])
        assert same == (number == "2")


def zipped(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"study/{file.name}")
    return path


def test_flat_download_of_several_patients_is_a_scan_each(tmp_path, tiny_volume_run, plain):
    for n, patient in enumerate(("ID_a", "ID_b", "ID_c"), 1):
        series_of(tmp_path / "in", CT, n, patient)
    translate(tiny_volume_run, tmp_path / "in", tmp_path / "out", "mr")
    assert written(tmp_path / "out") == {"s1_1", "s2_1", "s3_1"}
    for n, patient in enumerate(("ID_a", "ID_b", "ID_c"), 1):
        folder = tmp_path / "out" / f"s{n}_1"
        assert np.array_equal(pixels_of(folder), plain["ct"])
        assert {dcmread(path).PatientID for path in folder.glob("*.dcm")} == {patient}


def test_several_patients_in_one_series_are_refused(tmp_path, tiny_volume_run):
    for path in series_of(tmp_path / "in", CT)[6:]:
        edit(path, PatientID="B")
    said = translate(tiny_volume_run, tmp_path / "in", tmp_path / "out", "mr", code=8)
    assert "PatientID (0010,0020)" in said
    assert not (tmp_path / "out").exists()


# K8: uneven slices


@pytest.mark.parametrize("gone", [(5,), (7, 9), (1, 3)], ids=["gap", "thick above", "thick below"])
def test_uneven_series_needs_irregular_to_be_translated_and_nothing_to_be_trained_on(
    tmp_path, tiny_volume_run, plain, gone
):
    paths = series_of(tmp_path / "data/train/ct/a", CT)
    file_of(tmp_path / "data/train/mr/b.nii", MR)
    for k in gone:
        paths[k].unlink()
    source = tmp_path / "data/train/ct/a"
    assert "--irregular" in translate(tiny_volume_run, source, tmp_path / "out", "mr", code=8)
    translate(tiny_volume_run, source, tmp_path / "out", "mr", "--irregular")
    kept = [k for k in range(CT.shape[2]) if k not in gone]
    np.testing.assert_allclose(pixels_of(tmp_path / "out"), plain["ct"][kept], atol=1)
    places = [
        dcmread(path).ImagePositionPatient[2] for path in sorted((tmp_path / "out").glob("*.dcm"))
    ]
    np.testing.assert_allclose(np.diff(places), 12.0 * np.diff(kept), atol=1e-3)
    called("prepare", tmp_path / "data", tmp_path / "store", *TINY[:6])
    store = json.loads((tmp_path / "store/store.json").read_text())
    assert store["counts"]["train"]["ct"] > 4


# K12: headers that lie credibly


def padded(value: int, limit: int | None = None) -> Spoil:
    def spoil(paths: list[Path]) -> None:
        for path in paths:
            edit(path, PixelPaddingValue=value)
            if limit is not None:
                edit(path, PixelPaddingRangeLimit=limit)

    return spoil


def tagged(**tags: object) -> Spoil:
    def spoil(paths: list[Path]) -> None:
        for path in paths:
            edit(path, **tags)

    return spoil


@pytest.mark.parametrize(
    ("modality", "spoil", "said"),
    [
        ("ct", padded(0), "PixelPaddingValue (0028,0120) 0 lies within"),
        ("ct", padded(-20, 60), "kept as values"),
        ("mr", padded(int(np.median(MR[HEAD.mask]))), "kept as values"),
        ("ct", tagged(SpacingBetweenSlices=5), "says 5 mm, but the slices lie 12 mm apart"),
        ("ct", tagged(SOPClassUID=uid.MRImageStorage), "Modality (0008,0060) is believed"),
        ("ct", tagged(WindowCenter=9999, WindowWidth=1, PatientPosition="FFP"), None),
    ],
    ids=["padding", "range", "mr", "spacing", "class", "window"],
)
def test_header_that_the_picture_denies_changes_nothing(
    tmp_path, tiny_volume_run, plain, caplog, modality, spoil, said
):
    spoil(series_of(tmp_path / "in", CT if modality == "ct" else MR))
    to = "mr" if modality == "ct" else "ct"
    translate(tiny_volume_run, tmp_path / "in", tmp_path / "out", to)
    assert np.array_equal(pixels_of(tmp_path / "out"), plain[modality])
    warned = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    warnings = [line for line in warned if "an axial pixel of 5 mm" not in line]
    assert any(said in line for line in warnings) if said else not warnings


def test_offset_that_the_header_does_not_say_is_refused(tmp_path, tiny_volume_run, plain):
    paths = series_of(tmp_path / "in", CT)
    for path in paths:
        image = dcmread(path)
        pixels = np.frombuffer(image.PixelData, "<i2").astype(int) + 1024
        image.PixelData, image.RescaleIntercept = pixels.clip(0).astype("<u2").tobytes(), 0
        image.PixelRepresentation = 0
        image.save_as(path)
    said = translate(tiny_volume_run, tmp_path / "in", tmp_path / "out", "mr", code=8)
    assert "--ct-values hu+1024" in said
    words = ("--ct-values", "hu+1024")
    translate(tiny_volume_run, tmp_path / "in", tmp_path / "out", "mr", *words)
    np.testing.assert_allclose(pixels_of(tmp_path / "out"), plain["ct"], atol=1)


# K13: file systems


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EACCES, errno.ENOTSUP])
def test_share_that_does_not_sync_folders_is_warned_of_once(
    tmp_path, tiny_volume_run, plain, monkeypatch, caplog, number
):
    sync = os.fsync

    def fail(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    disks._warn.cache_clear()
    series_of(tmp_path / "in", CT)
    monkeypatch.setattr(os, "fsync", fail)
    translate(tiny_volume_run, tmp_path / "in", tmp_path / "out", "mr")
    assert caplog.text.count("does not sync folders") == 1
    assert np.array_equal(pixels_of(tmp_path / "out"), plain["ct"])


@pytest.mark.parametrize("where", ["link", "annex", "lfs"])
def test_what_was_not_fetched_ends_with_3_or_is_skipped_and_counted(
    tmp_path, tiny_volume_run, where
):
    data = tmp_path / "data"
    for modality, array in (("ct", CT), ("mr", MR)):
        file_of(data / f"train/{modality}/a.nii.gz", array)
    missing = data / "train/mr/b.nii.gz"
    if where == "link":
        missing.symlink_to("../../.git/annex/objects/b.nii.gz")
    elif where == "annex":
        missing.write_text("/annex/objects/MD5E-s1234567--0.nii.gz\n")
    else:
        missing.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n")
    run, source = tiny_volume_run, data / "train/mr"
    for said in (
        translate(run, source, tmp_path / "out", "ct", code=3),
        called("train", data, "--out", tmp_path / "run", *TINY, code=3),
    ):
        assert "b.nii.gz" in said
        assert "datalad get" in said
    called("audit", data, "--out", tmp_path / "audit.json", code=3)
    assert "train/mr/b.nii.gz" in (tmp_path / "audit.json").read_text()
    said = translate(run, source, tmp_path / "out", "ct", "--on-error", "skip", code=3)
    assert "1 inputs were skipped: b.nii.gz" in said
    assert seen(tmp_path / "out/a.nii.gz").shape == MR.shape


# K14: enhanced objects and archives


@pytest.mark.parametrize("modality", ["ct", "mr"])
@pytest.mark.parametrize("form", ["enhanced", "shuffled", "zip", "zip of enhanced"])
def test_other_forms_of_a_series_give_the_same_classic_series(
    tmp_path, tiny_volume_run, plain, modality, form
):
    source = tmp_path / "in"
    series_of(source, CT if modality == "ct" else MR)
    if form != "zip":
        order = None if form == "enhanced" else [*range(1, 12, 2), *range(0, 12, 2)]
        source = enhanced(source, tmp_path / "multi", order=order)
    if "zip" in form:
        folder = source if source.is_dir() else source.parent
        source = zipped(tmp_path / "in.zip", folder)
    translate(tiny_volume_run, source, tmp_path / "out", "mr" if modality == "ct" else "ct")
    assert np.array_equal(pixels_of(tmp_path / "out"), plain[modality])
    expected = uid.MRImageStorage if modality == "ct" else uid.CTImageStorage
    assert {dcmread(path).SOPClassUID for path in (tmp_path / "out").iterdir()} == {expected}


# K15: one file of a series


@pytest.mark.parametrize("k", [0, 5, 11])
def test_one_file_of_a_series_is_answered_with_what_to_give(tmp_path, tiny_volume_run, plain, k):
    path = series_of(tmp_path / "in", CT)[k]
    said = translate(tiny_volume_run, path, tmp_path / "out", "mr", code=3)
    assert "found one file of it" in said
    assert f"{tmp_path / 'in'}" in said.replace(" ", "")
    translate(tiny_volume_run, tmp_path / "in", tmp_path / "out", "mr")
    assert np.array_equal(pixels_of(tmp_path / "out"), plain["ct"])
