"""What needs more memory than there is."""

import resource
from types import SimpleNamespace

import psutil
import pytest

from ctmr.errors import ResourceError
from ctmr.io.dicom.series import read_series
from ctmr.io.nifti import read_nifti
from ctmr.system.memory import free_bytes, peak_bytes, require_memory
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


MB = 2**20


def cgroup(monkeypatch, root, line, group, files):
    """A control group with these files; `line` is what the kernel says of this process."""
    (root / "own").write_text(f"{line}\n")
    (root / group).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (root / group / name).write_text(f"{content}\n")
    monkeypatch.setattr("ctmr.system.memory._OWN_CGROUPS", root / "own")
    monkeypatch.setattr("ctmr.system.memory._CGROUPS", root)


@pytest.mark.parametrize("group", [".", "job", "job/step"])
def test_limit_of_a_container_counts(tmp_path, monkeypatch, group):
    """Version 2, of the process's own group or of one that it lies in; page cache is free."""
    files = {
        "memory.max": 200 * MB,
        "memory.current": 180 * MB,
        "memory.stat": f"anon {130 * MB}\ninactive_file {50 * MB}",
    }
    cgroup(monkeypatch, tmp_path, "0::/job/step", group, files)
    assert free_bytes() == 70 * MB


@pytest.mark.parametrize("group", ["memory", "memory/docker/0123"])
def test_limit_of_an_older_container_counts(tmp_path, monkeypatch, group):
    """Version 1; in the container its group is the root of the mount."""
    files = {
        "memory.limit_in_bytes": 200 * MB,
        "memory.usage_in_bytes": 180 * MB,
        "memory.stat": f"inactive_file 0\ntotal_inactive_file {50 * MB}",
    }
    cgroup(monkeypatch, tmp_path, "4:memory:/docker/0123", group, files)
    assert free_bytes() == 70 * MB


def test_container_that_is_full_leaves_nothing(tmp_path, monkeypatch):
    files = {"memory.max": 100, "memory.current": 200, "memory.stat": "anon 200"}
    cgroup(monkeypatch, tmp_path, "0::/", ".", files)
    assert free_bytes() == 0


def test_container_without_a_limit_has_what_the_machine_has(tmp_path, monkeypatch):
    files = {"memory.max": "max", "memory.current": 100, "memory.stat": "anon 100"}
    cgroup(monkeypatch, tmp_path, "0::/", ".", files)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=123))
    assert free_bytes() == 123


def test_peak_is_at_least_what_was_held():
    assert len(bytes(64 * MB)) == 64 * MB
    peak = peak_bytes()
    assert peak is not None
    assert 64 * MB < peak < 2**40


def test_more_than_is_free_is_refused_with_both_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("ctmr.system.memory.free_bytes", lambda: 70_000_000)
    require_memory(70_000_000, tmp_path)
    match = "expected 70,000,001 bytes of free memory, which it takes: found 70,000,000"
    with pytest.raises(ResourceError, match=match):
        require_memory(70_000_001, tmp_path)


def test_volumes_are_refused_before_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("ctmr.system.memory._MIN_CHECKED_BYTES", 0)
    monkeypatch.setattr("ctmr.system.memory.free_bytes", lambda: 100)
    path = file_of(tmp_path, content_of())
    with pytest.raises(ResourceError, match=r"a\.nii: expected [0-9]+ bytes of free memory"):
        read_nifti(path)
    make(tmp_path / "series")
    with pytest.raises(ResourceError, match="series: expected 2,880 bytes of free memory"):
        read_series(tmp_path / "series")
