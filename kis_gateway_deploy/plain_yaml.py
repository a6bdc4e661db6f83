"""YAML without aliases, tags and deep nesting: each could take all memory, or have side effects."""

from __future__ import annotations

from typing import Any

import yaml

MAX_DEPTH = 20
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
STRING = "tag:yaml.org,2002:str"


def load_plain(text: str) -> Any:
    """The value of one document.

    Raises:
        ValueError: `line 3: what is wrong with it`, without the content of the line.
    """
    line = 1
    try:
        depth = 0
        for event in yaml.parse(text, Loader=LOADER):
            line = event.start_mark.line + 1 if event.start_mark else line
            is_start = isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent)
            is_end = isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent)
            depth += is_start - is_end
            if isinstance(event, yaml.AliasEvent):
                raise _PlainError("has an alias")
            if depth > MAX_DEPTH:
                raise _PlainError("is nested too deep")
            if getattr(event, "tag", None) not in {None, STRING}:
                raise _PlainError("has a tag")
        return yaml.load(text, Loader=LOADER)  # noqa: S506 - a safe loader
    except _PlainError as error:
        raise ValueError(f"line {line}: {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ValueError(f"line {mark.line + 1 if mark else line}: is not YAML") from None
    except (yaml.YAMLError, ValueError, ArithmeticError):  # a number or date that does not exist
        raise ValueError("is not YAML") from None


class _PlainError(Exception):
    pass
