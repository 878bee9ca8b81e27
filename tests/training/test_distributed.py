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


def test_driver_that_pytorch_with_cuda_cannot_use_is_said(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    (tmp_path / "version").touch()
    Runtime("float32")
    assert "CUDA 12.8 may need a newer driver" in caplog.text


def test_nothing_is_said_without_a_driver_or_where_the_gpu_is_left_alone(
    monkeypatch, tmp_path, caplog
):
    monkeypatch.setattr(torch.version, "cuda", None)
    Runtime("float32")
    (tmp_path / "version").touch()
    Runtime("float32", "cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    Runtime("float32")
    assert not caplog.records
