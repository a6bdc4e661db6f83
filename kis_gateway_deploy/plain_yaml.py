"""YAML of others: without aliases and not deep, because each could take all memory."""

from __future__ import annotations

from typing import Any

import yaml

MAX_DEPTH = 20
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def plain_yaml(text: str) -> Any:
    """The document. Raises ValueError, yaml.YAMLError."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        is_start = isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent)
        is_end = isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent)
        depth += is_start - is_end
        if isinstance(event, yaml.AliasEvent) or depth > MAX_DEPTH:
            raise ValueError("has an alias, or is too deep")
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader
