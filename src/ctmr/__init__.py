"""Unpaired translation between CT and MRI scans of the brain. Research use only.

A translated image can add or remove disease; nothing here is for diagnosis.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctmr.config import Config, load_config
    from ctmr.errors import CtmrError
    from ctmr.evaluation import Evaluation, evaluate
    from ctmr.images import Image
    from ctmr.report import write_report
    from ctmr.scan import read_scan, write_scan
    from ctmr.synthetic import Head, synthesise_head
    from ctmr.training import TrainSummary, train
    from ctmr.translate import Translator, load_model
    from ctmr.volume import Volume

__version__ = version("ctmr")

_HOMES = {
    "Config": "config",
    "CtmrError": "errors",
    "Evaluation": "evaluation",
    "Head": "synthetic",
    "Image": "images",
    "TrainSummary": "training",
    "Translator": "translate",
    "Volume": "volume",
    "evaluate": "evaluation",
    "load_config": "config",
    "load_model": "translate",
    "read_scan": "scan",
    "synthesise_head": "synthetic",
    "train": "training",
    "write_report": "report",
    "write_scan": "scan",
}

__all__ = [
    "Config",
    "CtmrError",
    "Evaluation",
    "Head",
    "Image",
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
    return getattr(import_module(f"ctmr.{_HOMES[name]}"), name)
