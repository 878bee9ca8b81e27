"""What a page may ask of a translation: the options of `ctmr translate`, each one of its few values."""

import re
from collections.abc import Mapping
from typing import Any

_KEYS = {"to", "model", "quality", "slices", "reading"}
_GEOMETRIES = (None, "sform", "qform", "RAS", "LAS", "LPS")
_SERIES = re.compile(r"[0-9A-Za-z._]{1,64}")
_CT_VALUES = re.compile(r"hu|hu\+1024|grey|-?\d{1,6}(\.\d{1,3})?:-?\d{1,6}(\.\d{1,3})?")


def order_of(content: Any, models: Mapping[str, str]) -> dict[str, Any] | None:
    """The order for a child; None if the content is anything else.

    Args:
        content: JSON of the page: `to`, `model` (a hash), `quality`, `slices`, and `reading` with the reading options.
        models: Hash -> MODEL of those offered.
    """
    if not isinstance(content, dict) or set(content) != _KEYS:
        return None
    reading = content["reading"]
    if not isinstance(reading, dict) or not isinstance(content["model"], str):
        return None
    series, values = reading.get("series"), reading.get("ct_values")
    known = (
        content["to"] in ("ct", "mr")
        and content["model"] in models
        and content["quality"] in ("fast", "full")
        and isinstance(content["slices"], bool)
        and set(reading) == {"geometry", "irregular", "anyway", "series", "ct_values"}
        and reading["geometry"] in _GEOMETRIES
        and isinstance(reading["irregular"], bool)
        and isinstance(reading["anyway"], bool)
        and isinstance(series, list)
        and len(series) <= 1
        and all(isinstance(one, str) and _SERIES.fullmatch(one) for one in series)
        and (values is None or (isinstance(values, str) and bool(_CT_VALUES.fullmatch(values))))
    )
    return {**content, "model": models[content["model"]]} if known else None
