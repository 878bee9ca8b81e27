"""What needs more memory than there is."""

import resource

import pytest

from ctmr.errors import ResourceError
from ctmr.io.dicom.series import read_series
from ctmr.io.nifti import read_nifti
from ctmr.system.memory import free_bytes, require_memory
from support.dicom_series import make
from support.nifti_files import content_of, file_of


def test_limit_of_the_process_counts():
    """The limit is of this process, and put back at once."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    free = free_bytes()
    assert free is not None
    assert free > 2**26
    try:
        resource.setrlimit(resource.RLIMIT_AS, (2**20, before[1]))
        assert free_bytes() == 0
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_more_than_is_free_is_refused_with_both_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("ctmr.system.memory.free_bytes", lambda: 70_000_000)
    require_memory(70_000_000, tmp_path)
    match = "expected 70,000,001 bytes of free memory, which it takes: found 70,000,000"
    with pytest.raises(ResourceError, match=match):
        require_memory(70_000_001, tmp_path)


def test_volumes_are_refused_before_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("ctmr.system.memory._SMALL", 0)
    monkeypatch.setattr("ctmr.system.memory.free_bytes", lambda: 100)
    path = file_of(tmp_path, content_of())
    with pytest.raises(ResourceError, match=r"a\.nii: expected [0-9]+ bytes of free memory"):
        read_nifti(path)
    make(tmp_path / "series")
    with pytest.raises(ResourceError, match="series: expected 2,880 bytes of free memory"):
        read_series(tmp_path / "series")
