"""What stands for a file that was not fetched."""

import pytest

from ctmr.errors import DataError
from ctmr.io.fetched import is_dangling, require_fetched
from ctmr.io.scan import read_scan
from support.dicom_series import make

POINTERS = [
    b"/annex/objects/MD5E-s1234567--0123.nii.gz\n",
    b"../../.git/annex/objects/xx/yy/MD5E-s12--01.nii.gz",
    b".git/annex/objects/xx/yy/MD5E-s12--01.nii.gz",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
]


@pytest.mark.parametrize("content", POINTERS)
@pytest.mark.parametrize("name", ["a.nii.gz", "a.png", "a.mha", "a.nrrd", "a.mgz", "a.zip"])
def test_pointer_file_is_refused_with_what_fetches_it(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"(?s)pointer file.*`datalad get`"):
        read_scan(tmp_path / name)


def test_link_that_leads_nowhere_is_refused_and_a_loop_is_none(tmp_path):
    (tmp_path / "a.nii").symlink_to("nowhere.nii")
    (tmp_path / "loop.nii").symlink_to("loop.nii")
    assert is_dangling(tmp_path / "a.nii")
    assert not is_dangling(tmp_path / "loop.nii")
    with pytest.raises(DataError, match="link that leads nowhere"):
        require_fetched(tmp_path / "a.nii")


def test_other_small_files_are_left_to_their_reader(tmp_path):
    (tmp_path / "a.png").write_bytes(b"version 2 of something")
    require_fetched(tmp_path / "a.png")
    require_fetched(tmp_path)
    require_fetched(tmp_path / "none.png")


@pytest.mark.parametrize("how", ["link", "pointer"])
def test_slice_that_was_not_fetched_is_no_gap(tmp_path, how):
    folder = tmp_path / "series"
    make(folder)
    last = sorted(folder.iterdir())[-1]
    last.unlink()
    if how == "link":
        last.symlink_to("../.git/annex/objects/x.dcm")
    else:
        last.write_bytes(POINTERS[0])
    with pytest.raises(DataError, match="datalad get"):
        read_scan(folder)
