"""Scans as they come, in every format and everywhere: translated, trained on, compared and audited like NIfTI files."""

import shutil
import zipfile
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from ctmr import read_scan, synthesise_head
from ctmr.audit.audit import audit
from ctmr.data.folders import require_sources
from ctmr.data.pairs import find_pairs, read_pair
from ctmr.data.prepare import prepare
from ctmr.data.survey import read_volume
from ctmr.errors import DataError, OutputError, SafetyError, UsageError
from ctmr.imaging.intensity import Intensity
from ctmr.imaging.resampling import Scale
from ctmr.imaging.volume import Volume
from ctmr.io.dicom.recognise import find_dicom
from ctmr.io.dicom.series import read_series
from ctmr.io.dicom.writer import phantom_series
from ctmr.io.reading import Reading
from ctmr.synthetic.data_folder import write_heads
from ctmr.translation.batch import translate_files
from support.dicom_series import edit, enhanced, turned
from support.heads import stored_codes
from support.identity import HU, translator
from support.volume_files import changed, foreign_file, seen_by_others

FORMATS = (".mha", ".nrrd", ".mgz")
SHAPE, SPACING = (58, 67, 31), (3.5, 3.5, 5.0)


def unchanging():
    """An identity model with the window `wide` on both sides."""
    wide = Intensity("MR", HU.values)
    return translator(ct={"HU": HU}, mr={"MR": wide}, scale=Scale(64, SPACING[0]))


@cache
def phantom(modality: str) -> Volume:
    """A synthetic head in whole HU or MR units, turned."""
    head = synthesise_head(11, shape=SHAPE, spacing_mm=SPACING)
    array = head.ct if modality == "ct" else head.mr * (3000 / head.mr.max())
    affine = head.affine.copy()
    affine[:3] = turned(8, 5) @ affine[:3]
    return Volume(np.rint(array).astype(np.float32), affine, modality)


def zipped(path: Path, folder: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"study/{file.name}")
    return path


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_identity_model_returns_the_file_in_its_format(suffix, modality, tmp_path):
    volume = phantom(modality)
    source = foreign_file(tmp_path / f"a{suffix}", volume.array.astype("i2"), volume.affine)
    to = "mr" if modality == "ct" else "ct"
    out = tmp_path / f"out{suffix}"
    translate_files(unchanging(), source, out, to, quality="none")
    array, affine = seen_by_others(out)
    assert array.dtype.kind == ("f" if to == "mr" else "i")
    np.testing.assert_allclose(array, volume.array, atol=0.01)
    np.testing.assert_allclose(affine, volume.affine, atol=1e-4)
    assert (tmp_path / "out.json").is_file()


def test_output_has_the_format_of_its_suffix(tmp_path):
    source = foreign_file(tmp_path / "a.mha", phantom("mr").array, phantom("mr").affine)
    translate_files(unchanging(), source, tmp_path / "b.nii.gz", "ct", quality="none")
    image = nib.load(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), phantom("mr").array)
    np.testing.assert_allclose(image.affine, phantom("mr").affine, atol=1e-4)
    with pytest.raises(UsageError, match=r"ending in \.nii\.gz, \.nii, \.mha, \.nrrd"):
        translate_files(unchanging(), source, tmp_path / "b.mhd", "ct")


def test_folder_of_every_format_keeps_names_and_forms(tmp_path):
    source, out, volume = tmp_path / "in", tmp_path / "out", phantom("ct")
    (source / "below").mkdir(parents=True)
    for suffix in FORMATS:
        foreign_file(source / "below" / f"{suffix[1:]}{suffix}", volume.array, volume.affine)
    phantom_series(tmp_path / "series", volume, name="a", study="a")
    zipped(source / "z.zip", tmp_path / "series")
    enhanced(tmp_path / "series", source / "multi")
    summary = translate_files(unchanging(), source, out, "mr", quality="none")
    assert summary.written == 5
    names = ["below/mgz.json", "below/mgz.mgz", "below/mha.json", "below/mha.mha"]
    names += ["below/nrrd.json", "below/nrrd.nrrd", "multi.json", "z.json"]
    found = [path for path in out.rglob("*") if path.is_file() and path.suffix != ".dcm"]
    shown = [path for path in found if not path.name.startswith(".")]
    assert sorted(path.relative_to(out).as_posix() for path in shown) == names
    for folder in ("multi", "z"):
        assert np.array_equal(
            read_series(out / folder).volume.array, read_series(tmp_path / "series").volume.array
        )
        first = dcmread(find_dicom(out / folder)[0])
        assert (first.Modality, first.get("NumberOfFrames")) == ("MR", None)
    again = translate_files(unchanging(), source, out, "mr", quality="none", resume=True)
    assert (again.written, again.kept) == (0, 5)


def test_archive_gives_a_folder_and_no_archive(tmp_path):
    phantom_series(tmp_path / "series", phantom("mr"), name="a", study="a")
    source = zipped(tmp_path / "a.zip", tmp_path / "series")
    with pytest.raises(UsageError, match="expected a new folder for a DICOM series"):
        translate_files(unchanging(), source, tmp_path / "b.zip", "ct")
    translate_files(unchanging(), source, tmp_path / "b", "ct", quality="none")
    assert np.array_equal(read_scan(tmp_path / "b").array, read_scan(tmp_path / "series").array)
    with pytest.raises(OutputError):
        translate_files(unchanging(), source, tmp_path / "series", "ct", quality="none")


def test_multi_frame_file_gives_a_folder_and_a_single_slice_is_refused(tmp_path):
    phantom_series(tmp_path / "series", phantom("mr"), name="a", study="a")
    path = enhanced(tmp_path / "series", tmp_path / "multi")
    translate_files(unchanging(), path, tmp_path / "b", "ct", quality="none")
    assert np.array_equal(read_scan(tmp_path / "b").array, read_scan(tmp_path / "series").array)
    slice_path = find_dicom(tmp_path / "series")[0]
    with pytest.raises(DataError, match="expected a DICOM series: found one file of it"):
        translate_files(unchanging(), slice_path, tmp_path / "c", "ct")


def test_series_of_an_archive_are_chosen_as_those_of_a_folder(tmp_path):
    for number in (3, 4):
        phantom_series(tmp_path / f"{number}", phantom("mr"), name="a", study="a")
        (tmp_path / "in").mkdir(exist_ok=True)
        for path in find_dicom(tmp_path / f"{number}"):
            fresh = {
                "SeriesInstanceUID": f"2.25.{number}",
                "SOPInstanceUID": f"2.25.{number}{path.stem[-4:]}",
            }
            edit(path, SeriesNumber=number, **fresh)
            path.rename(tmp_path / "in" / f"{number}_{path.name}")
    zipped(tmp_path / "tree" / "a.zip", tmp_path / "in")
    reading = Reading(series=("4",))
    translate_files(
        unchanging(),
        tmp_path / "tree" / "a.zip",
        tmp_path / "b",
        "ct",
        quality="none",
        reading=reading,
    )
    assert read_series(tmp_path / "b").volume.array.shape == SHAPE
    reading = Reading(series=("all",))
    out = tmp_path / "c"
    done = translate_files(
        unchanging(), tmp_path / "tree", out, "ct", quality="none", reading=reading
    )
    assert done.written == 2
    assert sorted(path.name for path in (out / "a").iterdir() if path.is_dir()) == ["s3_1", "s4_1"]
    again = translate_files(
        unchanging(), tmp_path / "tree", out, "ct", quality="none", reading=reading, resume=True
    )
    assert (again.written, again.kept) == (0, 2)


def test_tree_of_patients_takes_archives_and_multi_frame_files(tmp_path):
    for n in range(3):
        for modality in ("ct", "mr"):
            series = tmp_path / f"{n}{modality}"
            phantom_series(series, phantom(modality), name=f"P{n}", study=f"{n}{modality}")
            patient = tmp_path / "tree" / f"p{n}"
            patient.mkdir(parents=True, exist_ok=True)
            if modality == "ct":
                zipped(patient / "ct.zip", series)
            else:
                enhanced(series, patient / "mr")
    found = require_sources(tmp_path / "tree", None)
    assert sorted((source.label, source.modality) for source in found) == sorted(
        (f"p{n}/ct.zip", "ct") if modality == "ct" else (f"p{n}/mr", "mr")
        for n in range(3)
        for modality in ("ct", "mr")
    )
    assert len({source.patient for source in found}) == 3
    volumes = [read_volume(source) for source in found]
    assert [read.volume.modality for read in volumes] == [source.modality for source in found]


def test_archive_beside_its_own_series_is_no_scan(tmp_path):
    phantom_series(tmp_path / "in" / "series", phantom("mr"), name="a", study="a")
    zipped(tmp_path / "in" / "series" / "a.zip", tmp_path / "in" / "series")
    for source in (tmp_path / "in", tmp_path / "in" / "series"):
        out = tmp_path / f"out-{source.name}"
        assert translate_files(unchanging(), source, out, "ct", quality="none").written == 1


def test_archive_names_the_series_of_a_volume_file(tmp_path):
    phantom_series(tmp_path / "series", phantom("ct"), name="a", study="a")
    like = zipped(tmp_path / "a.zip", tmp_path / "series")
    volume = read_series(like).volume
    source = foreign_file(tmp_path / "a.nrrd", volume.array, volume.affine)
    translate_files(unchanging(), source, tmp_path / "out", "mr", quality="none", like=like)
    assert np.array_equal(read_scan(tmp_path / "out").array, volume.array)


def test_axes_that_the_user_vouched_for_are_given_to_every_format(tmp_path):
    volume = Volume(phantom("mr").array, np.diag([*SPACING, 1.0]), "mr")
    source = foreign_file(tmp_path / "a.nrrd", volume.array, volume.affine)
    changed(source, b"left-posterior-superior", b"scanner-xyz")
    with pytest.raises(SafetyError):
        translate_files(unchanging(), source, tmp_path / "b.nrrd", "ct", quality="none")
    reading = Reading(geometry="RAS")
    translate_files(
        unchanging(), source, tmp_path / "b.nrrd", "ct", quality="none", reading=reading
    )
    assert read_scan(tmp_path / "b.nrrd").axes == ("R", "A", "S")
    assert '"geometry": "RAS"' in (tmp_path / "b.json").read_text()


def test_detached_header_among_scans_is_named_before_any_work(tmp_path):
    for name in ("a.mha", "b.mhd"):
        (tmp_path / "in").mkdir(exist_ok=True)
        foreign_file(tmp_path / "in" / name, phantom("mr").array, phantom("mr").affine)
    with pytest.raises(DataError, match="voxels are in another file"):
        translate_files(unchanging(), tmp_path / "in", tmp_path / "out", "ct")
    assert not list((tmp_path / "out").glob("*.mha"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """The same heads as NIfTI files, and as files of all other forms."""
    place = tmp_path_factory.mktemp("formats")
    write_heads(place / "nifti", subjects=2, size=64, image_format="nifti")
    forms = {"ct": [".mha", ".zip", ".mgz"], "mr": [".nrrd", "", ".mha"], "mask": [".nrrd"] * 3}
    for path in sorted((place / "nifti").rglob("*.nii.gz")):
        kind = path.parent.name
        target = place / "mixed" / path.parent.relative_to(place / "nifti")
        target.mkdir(parents=True, exist_ok=True)
        name, form = path.name.removesuffix(".nii.gz"), forms[kind][0]
        forms[kind].append(forms[kind].pop(0))
        image = nib.load(path)
        array = np.asarray(image.dataobj)
        if form not in (".zip", ""):
            foreign_file(target / f"{name}{form}", array, image.affine)
            continue
        volume = Volume(array.astype(np.float32), image.affine, kind)
        phantom_series(place / name, volume, name=name, study=name)
        if form:
            zipped(target / f"{name}.zip", place / name)
        else:
            enhanced(place / name, target / name)
    return place / "nifti", place / "mixed"


def test_data_of_every_form_gives_the_slices_of_nifti(folders, tiny_config):
    data = tiny_config.data.model_copy(update={"pixel_mm": 4.0})
    one, two = (prepare(folder, data) for folder in folders)
    for split in ("train", "test"):
        for modality in ("ct", "mr"):
            heights = [[e.height_mm for e in s.entries(split, modality)] for s in (one, two)]
            np.testing.assert_allclose(*heights, atol=1e-3)
    apart = np.abs(stored_codes(one).astype(int) - stored_codes(two).astype(int))
    assert apart.max() <= 1  # the header of an .mgz has float32


def test_audit_sees_every_form(folders):
    found = audit(folders[1])
    assert [f.why for f in found.findings if f.kind == "unreadable"] == []


def test_pairs_of_every_form_are_read(folders, tmp_path):
    shutil.copytree(folders[1] / "test", tmp_path / "pairs")
    pairs = find_pairs(tmp_path / "pairs")
    assert pairs
    for pair in pairs:
        scans = read_pair(pair)
        assert (scans["ct"].modality, scans["mr"].modality) == ("ct", "mr")
