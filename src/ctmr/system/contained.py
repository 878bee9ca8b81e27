"""What libraries send to their makers, or leave in home and temporary folders, when they are imported: here it is prevented.

OpenVINO, ONNX Runtime, matplotlib and torch's compiler are imported within one of these. Each changes the process only as
long as it lasts, so that a program that uses the same libraries keeps its settings. `tests/faults/test_outside.py` watches
the system calls of all commands, and so tells when a new version does it elsewhere.
"""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import distribution
from typing import Any

from ctmr.errors import OutputError
from ctmr.system.cache import cache_folder

# The only lock of environment and modules, which are of the process: two threads would restore each other's.
_LOCK = threading.RLock()


@contextlib.contextmanager
def without_telemetry() -> Iterator[None]:
    """For OpenVINO and ONNX Runtime, which at import call an analytics host and leave an identity in HOME.

    OpenVINO takes a stub of its own where `openvino_telemetry` cannot be imported, as it then cannot. ONNX Runtime reads the
    variable when it is imported, says its Privacy.md.
    """
    name = "openvino_telemetry"
    modules: dict[str, Any] = sys.modules
    with _LOCK, _environment({"ORT_DISABLE_TELEMETRY": "1"}):
        before = {name: modules[name]} if name in modules else {}
        modules[name] = None
        try:
            yield
        finally:
            del modules[name]
            modules.update(before)


@contextlib.contextmanager
def fonts_in_cache() -> Iterator[None]:
    """For matplotlib, which at import lists the fonts of the machine: in ctmr's cache or, where it has none, nowhere.

    By itself it makes folders in ~/.config and ~/.cache, or a temporary one, and runs `fc-list`, which has a cache in HOME
    too. A user's MPLCONFIGDIR holds, and so does a user's matplotlibrc.
    """
    if "matplotlib.font_manager" in sys.modules:
        yield
        return
    own = "MPLCONFIGDIR" in os.environ
    variables = {"PATH": os.devnull}  # no fc-list
    if not own and "MATPLOTLIBRC" not in os.environ:
        variables["MATPLOTLIBRC"] = _matplotlibrc()
    with _LOCK, _environment(variables):
        import matplotlib

        kept = matplotlib.get_cachedir
        logger = logging.getLogger("matplotlib.font_manager")
        level = logger.level
        logger.setLevel(logging.ERROR)  # that the list takes a moment, or cannot be kept
        if not own:
            folder = _fonts_folder()
            matplotlib.get_cachedir = lambda: folder
        try:
            yield
        finally:
            matplotlib.get_cachedir = kept
            logger.setLevel(level)


def import_compiler() -> None:
    """Import torch's compiler, as each optimiser does though nothing is compiled, without a folder in the temporary one."""
    name = "TORCHINDUCTOR_CACHE_DIR"  # a folder that it makes, unless it is there
    if "torch._dynamo" not in sys.modules:
        with _LOCK, _environment({name: os.environ.get(name) or os.sep}):
            import_module("torch._dynamo")


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables, and put back what they were."""
    before = {name: os.environ[name] for name in variables if name in os.environ}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        os.environ.update(before)


def _matplotlibrc() -> str:
    """The user's matplotlibrc, else the one that matplotlib brings; with a name given it makes no folder to look for one."""
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    own = os.path.join(config, "matplotlib", "matplotlibrc")
    if os.path.isfile(own):
        return own
    brought = distribution("matplotlib").locate_file("matplotlib/mpl-data/matplotlibrc")
    return str(brought)


def _fonts_folder() -> str:
    try:
        folder = cache_folder() / "matplotlib"
        folder.mkdir(exist_ok=True)
    except (OSError, OutputError):
        return os.devnull  # below which no file can be made
    return str(folder)
