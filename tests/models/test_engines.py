import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from ctmr.cyclegan.networks import build_generator, initialise
from ctmr.errors import UsageError
from ctmr.models import engines
from ctmr.models.engines import best_engine, require_engine, run_batch
from ctmr.models.torch_engine import choose_precision, network_by
from ctmr.system.rng import torch_stream
from ctmr.translation.translator import load_model

OTHERS = ("openvino", "onnx")


def generator(name="resnet", channels=1, upsample="nearest", skips=False):
    built = build_generator(
        name, channels=channels, filters=8, blocks=2, upsample=upsample, skips=skips
    ).eval()
    initialise(built, "uniform", torch_stream(0, name))
    return built.requires_grad_(False)


def images(count, height, width, channels=1):
    draw = np.random.default_rng(height).uniform(-1, 1, (count, height, width, channels))
    return draw.astype(np.float32)


def by(engine, network, given, precision="float32"):
    return run_batch(network_by(engine, network, given.shape[-1], precision), given)


@pytest.mark.parametrize("engine", OTHERS)
@pytest.mark.parametrize(
    ("name", "channels", "upsample", "skips"),
    [("resnet", 1, "nearest", False), ("resnet34", 3, "deconvolution", True)],
)
def test_engines_agree_with_torch(engine, name, channels, upsample, skips):
    network = generator(name, channels, upsample, skips)
    ready = network_by(engine, network, channels, "float32")
    for given in (images(3, 70, 40, channels), images(1, 96, 96, channels)):
        expected = by("torch", network, given)
        found = run_batch(ready, given)
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_bfloat16_moves_the_result_a_little(engine):
    network, given = generator(), images(2, 64, 64)
    moved = np.abs(by(engine, network, given, "bfloat16") - by("torch", network, given))
    if choose_precision("auto", "cpu") == "bfloat16":  # elsewhere OpenVINO stays in float32
        assert moved.max() > 1e-4
    assert moved.mean() < 0.02


def test_slices_do_not_depend_on_those_beside_them():
    network, given = generator(), images(3, 64, 64)
    for engine in ("torch", *OTHERS):
        whole = by(engine, network, given)
        alone = [by(engine, network, given[i : i + 1])[0] for i in range(3)]
        assert np.abs(whole - alone).max() < 1e-5


# A program that imports what calls home, then uses ctmr; says what was to be sent, by then and in the end.
REPORTS = """
import importlib, json, sys
import openvino_telemetry
from openvino_telemetry.backend.backend_ga4 import GA4Backend
from openvino_telemetry.utils.sender import TelemetrySender

sent = []
TelemetrySender.send = lambda self, backend, message: sent.append(message)
GA4Backend.generate_new_cid_file = lambda self: setattr(self, "cid", "0")
openvino_telemetry.Telemetry.get_stats = lambda *_: None
for name in sys.argv[1:]:
    importlib.import_module(name)
before = len(sent)

import numpy as np
from ctmr.models.torch_engine import network_by
from ctmr.cyclegan.networks import build_generator

network = build_generator(
    "resnet", channels=1, filters=4, blocks=1, upsample="nearest", skips=False
)
for engine in ("openvino", "onnx"):
    forward = network_by(engine, network.eval().requires_grad_(False), 1, "float32").forward
    forward(np.zeros((1, 1, 32, 32), np.float32))
assert sys.modules["openvino_telemetry"] is openvino_telemetry
print(json.dumps([before, len(sent) - before]))
"""


@pytest.mark.parametrize("first", [(), ("openvino",)], ids=["ctmr", "openvino"])
def test_engines_report_to_nobody_whatever_was_imported_first(first, tmp_path):
    pytest.importorskip("openvino_telemetry")
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}  # no CI
    done = subprocess.run(
        [sys.executable, "-c", REPORTS, *first],
        capture_output=True,
        text=True,
        env=env,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    before, after = json.loads(done.stdout)
    assert (before > 0) == bool(first)  # the program's own import, which is seen
    assert after == 0
    if not first:
        assert list(tmp_path.iterdir()) == []


def without(monkeypatch, *names):
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *_: None if name in names else there(name)
    )


def test_best_engine_is_openvino_where_it_is_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(engines, "has_gpu", lambda: False)
    monkeypatch.setattr(engines, "_CPUINFO", tmp_path / "cpuinfo")
    assert best_engine(exported=False) == "openvino"
    assert best_engine(exported=True) == "onnx"  # nothing says that the processor has bfloat16
    (tmp_path / "cpuinfo").write_text("flags : fpu avx512_bf16 amx_tile")
    assert best_engine(exported=True) == "openvino"
    without(monkeypatch, "openvino")
    assert best_engine(exported=True) == "onnx"
    assert best_engine(exported=False) == "torch"


def test_best_engine_is_torch_on_a_gpu_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(engines, "has_gpu", lambda: True)
    assert best_engine(exported=True) == best_engine(exported=False) == "torch"
    without(monkeypatch, "torch", "openvino")
    assert best_engine(exported=True) == "onnx"


def test_torch_is_asked_for_a_gpu_only_where_there_is_a_driver(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(engines, "_DRIVERS", (str(tmp_path / "nvidiactl"),))
    assert not engines.has_gpu()
    (tmp_path / "nvidiactl").touch()
    assert engines.has_gpu()


@pytest.mark.parametrize(
    ("engine", "package", "fix"),
    [
        ("openvino", "openvino", r"ctmr\[openvino\]"),
        ("onnx", "onnxruntime", "onnxruntime"),
        ("torch", "torch", r"ctmr\[train\]"),
    ],
)
def test_engine_that_is_not_installed_is_refused(monkeypatch, engine, package, fix):
    without(monkeypatch, package)
    with pytest.raises(UsageError, match=rf"{package}: not installed.*pip install '{fix}'"):
        require_engine(engine, "auto")


def test_onnx_knows_float32_only(tiny_run):
    with pytest.raises(UsageError, match="expected float32 for the engine onnx"):
        load_model(tiny_run, engine="onnx", precision="bfloat16")
    made = load_model(tiny_run, engine="onnx")
    assert (made.engine, made.precision) == ("onnx", "float32")


def test_precision_is_that_of_the_hardware_unless_one_is_wanted(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert choose_precision("auto", "cpu") == "bfloat16"
    assert choose_precision("float32", "cpu") == "float32"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    assert choose_precision("auto", "cpu") == "float32"
    assert choose_precision("bfloat16", "cpu") == "bfloat16"


SIGNALLED = """
import os, signal
import numpy as np
from ctmr.models.torch_engine import network_by
from ctmr.cyclegan.networks import build_generator

def ready():
    network = build_generator(
        "resnet", channels=1, filters=4, blocks=1, upsample="nearest", skips=False
    )
    forward = network_by("openvino", network.eval().requires_grad_(False), 1, "float32").forward
    forward(np.zeros((1, 1, 32, 32), np.float32))
    return forward

signal.signal(signal.SIGTERM, lambda *_: print("answered"))
first, second = ready(), ready()
del first
del second
os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="needs openvino")
def test_signal_after_two_models_were_used_and_dropped_is_answered():
    """OpenVINO gives the main thread a stack for signals and takes back the wrong one."""
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "answered\n"), done.stderr


def test_openvino_is_not_asked_for_what_it_would_leave_undone(monkeypatch):
    monkeypatch.setattr(engines, "openvino_has_bfloat16", lambda: False)
    with pytest.raises(UsageError, match="does not multiply in bfloat16"):
        require_engine("openvino", "bfloat16")
    require_engine("openvino", "auto")
    require_engine("torch", "bfloat16")


def test_openvino_linux_and_torch_agree_on_what_the_processor_multiplies():
    torch_says = choose_precision("auto", "cpu") == "bfloat16"
    assert engines.openvino_has_bfloat16() == torch_says
    if engines._CPUINFO.exists():
        assert engines._processor_has_bfloat16() == torch_says
