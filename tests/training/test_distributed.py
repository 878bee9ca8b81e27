"""Where training runs, and what is said of a GPU that it does not use."""

import pytest
import torch

from ctmr.models import devices
from ctmr.training.distributed import Runtime


@pytest.fixture(autouse=True)
def unsaid(monkeypatch, tmp_path):
    """Nothing was said yet, and this machine has no driver."""
    devices._warn_of_idle_gpu.cache_clear()
    monkeypatch.setattr(devices, "NVIDIA_DRIVER", tmp_path / "version")
    monkeypatch.setenv("PATH", str(tmp_path))
    yield
    devices._warn_of_idle_gpu.cache_clear()


@pytest.mark.parametrize("name", ["version", "nvidia-smi"])
def test_nvidia_driver_without_cuda_is_said_once_with_what_to_install(
    monkeypatch, tmp_path, caplog, name
):
    monkeypatch.setattr(torch.version, "cuda", None)
    (tmp_path / name).touch(mode=0o755)
    for _ in range(2):
        Runtime("float32")
    (line,) = [record.getMessage() for record in caplog.records]
    assert "NVIDIA driver" in line
    assert line.endswith("pip install --force-reinstall torch")


@pytest.mark.parametrize(("driver", "cuda"), [(False, None), (True, "12.8")])
def test_nothing_is_said_without_a_driver_or_with_cuda(monkeypatch, tmp_path, caplog, driver, cuda):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    if driver:
        (tmp_path / "version").touch()
    Runtime("float32")
    assert not caplog.records
