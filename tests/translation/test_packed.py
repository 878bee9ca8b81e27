"""A volume's translation that goes to its file slice by slice is that of the whole volume, byte for byte."""

import errno
import os
import stat
from dataclasses import replace
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ctmr import read_scan, synthesise_head
from ctmr.errors import OutputError, SafetyError
from ctmr.imaging.intensity import MR_UNITS
from ctmr.imaging.resampling import Scale
from ctmr.imaging.volume import Volume
from ctmr.io.scan import DESCRIPTION
from ctmr.io.volumes import volume_bytes
from ctmr.system.files import cannot_write
from ctmr.translation import packed
from ctmr.translation.batch import translate_files
from ctmr.translation.packed import Packed, gather_for, unnamed_file
from ctmr.translation.preview import preview
from ctmr.translation.translator import Translator
from support.identity import HU, Shade, translator

MM = 3.5
SHAPE = (58, 67, 31)
UP = np.diag([MM, MM, 5.0, 1.0])
DOWN = np.array([[MM, 0, 0, 0], [0, MM, 0, 0], [0, 0, -5.0, 150], [0, 0, 0, 1]])
SAGITTAL = np.array([[0, 0, MM, 0], [MM, 0, 0, 0], [0, 5.0, 0, 0], [0, 0, 0, 1]])


@cache
def model() -> Translator:
    return translator(ct={"HU": HU}, mr={"MR": MR_UNITS}, scale=Scale(64, MM), generator=Shade)


@cache
def head() -> tuple[np.ndarray, np.ndarray]:
    made = synthesise_head(11, shape=SHAPE, spacing_mm=(MM, MM, 5.0))
    return np.rint(made.ct).astype(np.int16), np.rint(made.mr * (3000 / made.mr.max())).astype(
        np.uint16
    )


def scan(folder: Path, to: str, affine: np.ndarray = UP, dtype: str | None = None) -> Path:
    array = head()[0 if to == "mr" else 1]
    if affine is DOWN:
        array = array[:, :, ::-1]
    elif affine is SAGITTAL:
        array = array.transpose(1, 2, 0)
    path = folder / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.ascontiguousarray(array, dtype), affine), path)
    return path


@pytest.mark.parametrize("affine", [UP, DOWN, SAGITTAL], ids=["up", "down", "sagittal"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
@pytest.mark.parametrize("to", ["ct", "mr"])
def test_file_and_preview_are_those_of_the_whole_volume(tmp_path, to, suffix, affine):
    source, target = scan(tmp_path, to, affine), tmp_path / f"out{suffix}"
    translate_files(model(), source, target, to)
    whole = model().translation(read_scan(source), to, quality="fast")
    assert target.read_bytes() == volume_bytes(target, whole.scan, DESCRIPTION)
    shown = preview(read_scan(source, modality=model_of(to)), whole.scan, whole.centre)
    assert (tmp_path / "out.preview.png").read_bytes() == shown


def model_of(to: str) -> str:
    return {"ct": "mr", "mr": "ct"}[to]


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("to", ["ct", "mr"])
def test_type_of_the_voxels_in_the_file_changes_nothing(tmp_path, to, dtype):
    source, target = scan(tmp_path, to, dtype=dtype), tmp_path / "out.nii.gz"
    translate_files(model(), source, target, to)
    array = head()[0 if to == "mr" else 1].astype(np.float32)
    expected = model().translate(replace(read_scan(source), array=array), to)
    assert target.read_bytes() == volume_bytes(target, expected, DESCRIPTION)


@pytest.mark.parametrize("affine", [UP, DOWN, SAGITTAL], ids=["up", "down", "sagittal"])
def test_only_a_nifti_file_whose_slices_are_axial_from_below_is_written_slice_by_slice(affine):
    volume = Volume(np.zeros((30, 30, 30), np.float32), affine)
    made = model().prepared(volume, "mr", anyway=True)
    planes = np.zeros((30, 30, 30), np.float32)
    for suffix in (".nii", ".nii.gz", ".nrrd", ".mgz"):
        result = gather_for(Path.cwd() / f"out{suffix}", made)(iter([planes]))
        assert isinstance(result, Packed) == (affine is UP and suffix.startswith(".nii"))


def test_translation_that_is_refused_leaves_nothing(tmp_path, monkeypatch):
    def refuse(_):
        raise SafetyError("scan is unlike the training data", fix="name another")

    source, out = scan(tmp_path, "mr"), tmp_path / "new" / "out.nii.gz"
    monkeypatch.setattr("ctmr.translation.single.require_like", refuse)
    with pytest.raises(SafetyError):
        translate_files(model(), source, out, "mr")
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]


# The file without a name


def test_file_without_a_name_holds_its_parts_and_leaves_no_trace(tmp_path):
    with unnamed_file(iter([b"one", b"", b"two"]), tmp_path / "not" / "there" / "a") as file:
        file.seek(0)
        assert file.read() == b"onetwo"
        assert list(tmp_path.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_part_that_cannot_be_written_at_first_is_written_at_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr("ctmr.system.files.PAUSES", (0, 0, 0))
    write = packed._write_at
    faults = [errno.ENOSPC, errno.EIO]

    def fail_halfway(file, place, part, path):
        if part == b"second" and faults:
            write(file, place, part[:3], path)
            error = OSError(faults[0], os.strerror(faults.pop(0)))
            raise cannot_write(path, error) from error
        write(file, place, part, path)

    monkeypatch.setattr(packed, "_write_at", fail_halfway)
    with unnamed_file([b"first", b"second", b"third"], tmp_path / "a") as file:
        file.seek(0)
        assert file.read() == b"firstsecondthird"
    assert faults == []


def test_disk_that_is_full_before_all_slices_are_written_is_an_output_error(tmp_path, monkeypatch):
    monkeypatch.setattr("ctmr.system.files.PAUSES", ())
    with Path("/dev/full").open("r+b", 0) as full:
        monkeypatch.setattr(packed, "nameless_file", lambda _: full)
        with pytest.raises(OutputError, match="cannot write it") as caught:
            translate_files(model(), scan(tmp_path, "mr"), tmp_path / "out.nii.gz", "mr")
    assert caught.value.file == str(tmp_path / "out.nii.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]


def test_folder_in_which_no_file_can_be_made_is_an_output_error(tmp_path, monkeypatch):
    def refused(_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(packed, "nameless_file", refused)
    with pytest.raises(OutputError, match="Permission denied"):
        unnamed_file([b"part"], tmp_path / "a")


@pytest.mark.parametrize("how", ["by a name", "by a copy"])
def test_bytes_come_to_a_place_and_no_disk_holds_them_twice(tmp_path, monkeypatch, how):
    if how == "by a name" and not hasattr(os, "O_TMPFILE"):
        pytest.skip("only Linux names an open file")
    if how == "by a copy":
        monkeypatch.setattr(os, "supports_dir_fd", set())
    place = tmp_path / ".draft.tmp"
    place.touch(0o640)
    file = unnamed_file([b"first", b"second"], place)
    number = os.fstat(file.fileno()).st_ino
    content = Packed(file, None)
    content.put_at(place)
    assert (place.stat().st_ino == number) == (how == "by a name")
    assert stat.S_IMODE(place.stat().st_mode) == 0o640
    place.unlink()
    place.touch(0o640)
    content.put_at(place)  # another attempt, after something else failed
    assert place.read_bytes() == b"firstsecond"
    assert os.listdir(tmp_path) == [place.name]
