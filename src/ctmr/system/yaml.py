"""YAML read strictly: no tags, no aliases, no key twice, at most 1 MB."""

from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from ctmr.errors import UsageError
from ctmr.system.files import read_regular

MAX_BYTES = 1_000_000


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML mapping read strictly: no tags, aliases or duplicate keys, at most 1 MB.

    Raises:
        UsageError: If the file cannot be read or is not such a mapping.
    """
    try:
        text = read_regular(file, MAX_BYTES).decode("utf-8")
    except OSError as error:
        what = f"cannot read it ({error.strerror})"
        raise UsageError(what, file=file, fix="check the path") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read it ({error})", file=file, fix="check the path") from error
    settings = parse_yaml(text, source=str(file))
    if not isinstance(settings, dict):
        raise UsageError(
            f"expected a mapping of settings, found {type(settings).__name__}",
            file=file,
            fix="start from the output of ctmr train --print-config",
        )
    return settings


def parse_yaml(text: str, source: str) -> Any:
    """The value in a YAML text.

    Raises:
        UsageError: If it is not plain YAML.
    """
    try:
        value = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a subclass of SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date 2001-99-99
        reason = " ".join(str(error).split())
        raise UsageError(f"not plain YAML ({reason})", file=source, fix="correct it") from error
    return _yaml12_float(value)


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader without aliases and duplicate keys, and with YAML 1.2's `2e-4`."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        if self.peek_event().tag is not None:  # type: ignore[no-untyped-call]
            raise yaml.YAMLError("tags are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        if len(mapping) < len(keys):
            repeated = sorted(str(key) for key, count in Counter(keys).items() if count > 1)
            raise yaml.YAMLError(f"key given twice: {', '.join(repeated)}")
        return mapping


def _yaml12_float(value: Any) -> Any:
    """PyYAML follows YAML 1.1, where 2e-4 is a string; people mean a number."""
    if isinstance(value, dict):
        return {key: _yaml12_float(item) for key, item in value.items()}
    if isinstance(value, str) and value[:1] in "+-.0123456789":
        try:
            return float(value)
        except ValueError:
            return value
    return value
