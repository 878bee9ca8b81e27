"""Unpaired translation between CT and MRI scans of the brain. Research use only.

A translated image can add or remove disease; nothing here is for diagnosis.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ctmr.errors import OF_TRAINING

if TYPE_CHECKING:
    from ctmr.config import Config, load_config
    from ctmr.errors import CtmrError
    from ctmr.evaluation.evaluate import Evaluation, evaluate
    from ctmr.imaging.image import Image
    from ctmr.imaging.volume import Volume
    from ctmr.io.reading import Reading
    from ctmr.io.scan import read_scan, write_scan
    from ctmr.reporting.run_report import write_report
    from ctmr.synthetic.head import Head, synthesise_head
    from ctmr.training.train import TrainSummary, train
    from ctmr.translation.translator import Translator, load_model

__version__ = version("ctmr")

_HOMES = {
    "Config": "config",
    "CtmrError": "errors",
    "Evaluation": "evaluation.evaluate",
    "Head": "synthetic.head",
    "Image": "imaging.image",
    "Reading": "io.reading",
    "TrainSummary": "training.train",
    "Translator": "translation.translator",
    "Volume": "imaging.volume",
    "evaluate": "evaluation.evaluate",
    "load_config": "config",
    "load_model": "translation.translator",
    "read_scan": "io.scan",
    "synthesise_head": "synthetic.head",
    "train": "training.train",
    "write_report": "reporting.run_report",
    "write_scan": "io.scan",
}

__all__ = [
    "Config",
    "CtmrError",
    "Evaluation",
    "Head",
    "Image",
    "Reading",
    "TrainSummary",
    "Translator",
    "Volume",
    "evaluate",
    "load_config",
    "load_model",
    "read_scan",
    "synthesise_head",
    "train",
    "write_report",
    "write_scan",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import ctmr` alone loads neither torch nor matplotlib."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ctmr' has no attribute {name!r}")
    try:
        return getattr(import_module(f"ctmr.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name not in OF_TRAINING:
            raise
        raise ImportError(
            f"ctmr.{name} needs {error.name}: pip install 'ctmr[train]'", name=error.name
        ) from error
