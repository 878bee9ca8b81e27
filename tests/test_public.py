"""`import ctmr` and the start of the program, each in a fresh interpreter in which warnings are errors."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import ctmr
from ctmr.imaging.volume import Volume
from ctmr.io.nifti import write_nifti
from ctmr.synthetic.head import synthesise_head
from support.pictures import save, slices

SOURCE = Path(ctmr.__file__).parent
# Dotted names below `ctmr`; running `__main__` runs the program.
MODULES = sorted(
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCE.rglob("*.py")
    if path.name != "__main__.py" and path != SOURCE / "__init__.py"
)


def python(script: str) -> str:
    """What the script prints, on both streams."""
    command = [sys.executable, "-W", "error", "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def test_public_names_are_sorted_and_there():
    assert ctmr.__all__ == sorted(ctmr.__all__)
    assert len(ctmr.__all__) == len(set(ctmr.__all__)) <= 20
    for name in ctmr.__all__:
        assert callable(getattr(ctmr, name))
    assert ctmr.__version__.count(".") == 2


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'ctmr' has no attribute 'translat'"):
        _ = ctmr.translat


def test_names_of_the_contract_are_functions_whatever_was_imported_before():
    for module in MODULES:
        importlib.import_module(f"ctmr.{module}")
    from ctmr import evaluate, load_model, read_scan, synthesise_head, train, write_scan

    for function in (evaluate, load_model, read_scan, synthesise_head, train, write_scan):
        assert type(function).__name__ == "function"


def test_no_module_is_called_like_a_public_name():
    assert not set(MODULES) & set(ctmr.__all__)


def test_first_use_in_several_threads_waits_for_its_imports():
    """An attribute of `skimage` is there before all that it holds: only an import statement waits."""
    python("""
import sys, threading
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from ctmr.imaging.head import head_mask
sys.setswitchinterval(1e-5)
picture, together = np.pad(np.ones((12, 12), np.float32), 10), threading.Barrier(8)
def found(_):
    together.wait()
    return int(head_mask(picture, hu=False, radius=2.0).sum())
with ThreadPoolExecutor(8) as pool:
    areas = [*pool.map(found, range(8))]
assert 100 < areas[0] < 150 and areas == 8 * areas[:1], areas
""")


def test_training_and_translation_wait_with_what_takes_long_to_import():
    """SciPy and scikit-image import their parts when these are first used."""
    python("""
import sys, ctmr.training.train, ctmr.translation.batch
heavy = {"scipy.ndimage", "scipy.optimize", "scipy.stats", "skimage.morphology", "matplotlib"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
""")


def test_translation_of_a_picture_imports_only_what_a_picture_needs(tmp_path):
    save(tmp_path / "a.png", slices(2, "mr")[1])
    words = [str(tmp_path / "a.png"), str(tmp_path / "ct" / "a.png"), "--to", "ct"]
    said = python(f"""
import sys
from ctmr.cli import main
sys.argv = ["ctmr", "translate", *{words!r}, "--engine", "onnx"]
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
heavy = {{"nibabel", "pydicom", "torch", "matplotlib", "skimage", "openvino", "rich"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
""")
    assert "1 scan written" in said


def test_translation_of_a_nifti_volume_imports_only_what_a_volume_needs(tmp_path):
    head = synthesise_head(1, shape=(48, 48, 30), spacing_mm=(5, 5, 6))
    write_nifti(tmp_path / "a.nii.gz", Volume(head.ct, head.affine, "ct"), "synthetic")
    words = [str(tmp_path / "a.nii.gz"), str(tmp_path / "mr.nii.gz"), "--to", "mr"]
    said = python(f"""
import sys
from ctmr.cli import main
sys.argv = ["ctmr", "translate", *{words!r}, "--engine", "onnx", "--anyway"]
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
heavy = {{"ctmr.io.dicom.pixels", "torch", "matplotlib", "skimage", "openvino", "tifffile", "rich"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
""")
    assert "1 scan written" in said


def test_import_loads_neither_torch_nor_matplotlib_and_prints_nothing():
    script = "import sys, ctmr; assert not {'torch', 'matplotlib', 'numpy'} & set(sys.modules)"
    assert python(script) == ""


def test_help_does_not_load_torch():
    script = """
import sys
from ctmr.cli import main
for arguments in (["--help"], ["train", "--help"]):
    sys.argv = ["ctmr", *arguments]
    try:
        main()
    except SystemExit as ended:
        assert ended.code == 0
assert not {"torch", "matplotlib"} & set(sys.modules)
"""
    assert python(script).count("Usage: ctmr") == 2


def test_no_module_prints_or_warns_when_it_is_imported():
    names = [f"ctmr.{module}" for module in MODULES]
    assert python(f"import {', '.join(names)}") == ""


def test_python_m_ctmr_is_the_program():
    command = [sys.executable, "-m", "ctmr", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "Usage: ctmr" in result.stdout
