"""Which of several series INPUT means, and what stands for files that are not there."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import uid

from ctmr.errors import DataError, UsageError
from ctmr.imaging.intensity import MR_UNITS
from ctmr.imaging.resampling import Scale
from ctmr.imaging.volume import Volume
from ctmr.io.dicom.series import read_series
from ctmr.io.dicom.writer import phantom_series
from ctmr.io.reading import Reading
from ctmr.io.scan import read_scan, write_scan
from ctmr.synthetic.head import synthesise_head
from ctmr.translation.batch import translate_files
from support.identity import HU, translator

HEAD = synthesise_head(11, shape=(36, 42, 22), spacing_mm=(5.0, 5.0, 6.0))
CT = Volume(np.rint(HEAD.ct).astype(np.float32), HEAD.affine, "ct")
MR = Volume(np.rint(HEAD.mr * (900 / HEAD.mr.max())).astype(np.float32), HEAD.affine, "mr")


def model():
    return translator(ct={"HU": HU}, mr={"MR": MR_UNITS}, scale=Scale(64, 4.0))


def series(folder: Path, volume: Volume, number: int, patient: str = "A", **tags: object) -> None:
    """One series of one folder, of this number, its files named by it."""
    made = folder.parent / f"{folder.name}-{patient}-{number}"
    phantom_series(made, volume, name=patient, study="S")
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(made.iterdir()):
        content = pydicom.dcmread(path)
        content.SeriesNumber = number
        content.SeriesInstanceUID = uid.generate_uid(entropy_srcs=[patient, str(number)])
        content.SOPInstanceUID = uid.generate_uid()
        content.file_meta.MediaStorageSOPInstanceUID = content.SOPInstanceUID
        for keyword, value in tags.items():
            setattr(content, keyword, value)
        content.save_as(folder / f"{patient}_{number}_{path.name}")
    shutil.rmtree(made)


def translate(source: Path, out: Path, to: str, **options):
    reading = Reading(anyway=True, **options)
    return translate_files(model(), source, out, to, quality="none", reading=reading)


def made(out: Path) -> set[str]:
    return {path.parent.relative_to(out).as_posix() for path in out.rglob("slice_0001.dcm")}


def thick(volume: Volume) -> Volume:
    return Volume(
        volume.array[:, :, ::2].copy(), volume.affine @ np.diag([1, 1, 2, 1]), volume.modality
    )


@pytest.fixture
def study(tmp_path):
    """A flat study: a thick CT, a thin CT, an MR and a T2."""
    folder = tmp_path / "study"
    series(folder, thick(CT), 2)
    series(folder, CT, 3)
    series(folder, MR, 5, EchoTime="3", RepetitionTime="9", InversionTime="900")
    series(folder, MR, 6, EchoTime="100", RepetitionTime="5000", ScanningSequence="SE")
    return folder


def test_thinnest_ct_or_the_t1_is_taken_of_a_flat_study_and_the_table_shown(
    study, tmp_path, caplog
):
    caplog.set_level(logging.INFO)
    assert translate(study, tmp_path / "mr", "mr").written == 1
    assert read_series(tmp_path / "mr").volume.array.shape == CT.array.shape
    table = [m for m in caplog.messages if m.startswith(("*", " "))]
    assert [line.split()[:2] for line in table] == [
        ["2", "CT"], ["*", "3"], ["5", "MR"], ["6", "MR"],
    ]  # fmt: skip
    caplog.clear()
    translate(study, tmp_path / "ct", "ct")
    assert [m.split()[1] for m in caplog.messages if m.startswith("*")] == ["5"]


@pytest.mark.parametrize(("wanted", "written"), [(("2",), 1), (("2", "3"), 2), (("all",), 2)])
def test_series_chooses(study, tmp_path, wanted, written):
    assert translate(study, tmp_path / "out", "mr", series=wanted).written == written
    expected = {"2": {"."}, "2 3": {"s2_1", "s3_1"}, "all": {"s2_1", "s3_1"}}
    assert made(tmp_path / "out") == expected[" ".join(wanted)]


def test_series_that_is_not_there_is_answered_with_those_that_are(study, tmp_path):
    with pytest.raises(UsageError, match=r"found '7'.*2 CT.*3 CT.*5 MR"):
        translate(study, tmp_path / "out", "mr", series=("7",))


def test_each_series_of_several_patients_is_a_scan(tmp_path):
    for patient in ("A", "B", "C"):
        series(tmp_path / "flat", thick(CT), 1, patient)
    assert translate(tmp_path / "flat", tmp_path / "out", "mr").written == 3
    assert made(tmp_path / "out") == {"s1_1", "s1_2", "s1_3"}


def test_read_scan_asks_which_series_unless_told(study):
    with pytest.raises(UsageError, match="expected one series: found 4"):
        read_scan(study)
    assert read_scan(study, reading=Reading(series=("2",))).array.shape == thick(CT).array.shape
    assert read_scan(study, modality="ct").array.shape == CT.array.shape


def test_one_file_of_a_series_is_answered_with_its_folder(study, tmp_path):
    file = next(study.iterdir())
    with pytest.raises(DataError, match="found one file of it") as caught:
        translate(file, tmp_path / "out", "mr")
    assert str(study) in caught.value.fix
    assert translate(study, tmp_path / "out", "mr").written == 1


def test_what_was_not_fetched_is_skipped_and_counted_or_stops_all(tmp_path):
    write_scan(tmp_path / "in" / "a.nii.gz", MR)
    (tmp_path / "in" / "b.nii.gz").symlink_to("../.git/annex/objects/b.nii.gz")
    (tmp_path / "in" / "c.nii.gz").write_text("/annex/objects/MD5E-s1--0.nii.gz\n")
    with pytest.raises(DataError, match=r"2 of 3 scans.*datalad get"):
        translate(tmp_path / "in", tmp_path / "out", "ct")
    reading = Reading(anyway=True)
    done = translate_files(
        model(),
        tmp_path / "in",
        tmp_path / "out",
        "ct",
        quality="none",
        on_error="skip",
        reading=reading,
    )
    assert (done.written, done.skipped) == (1, ("b.nii.gz", "c.nii.gz"))
