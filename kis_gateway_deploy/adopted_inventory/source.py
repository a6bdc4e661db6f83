"""The inventory's Python source. All text of a description is escaped, or a Python literal."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from pprint import pformat
from textwrap import indent, wrap
from typing import Any

from kis_gateway_deploy.adopted_inventory.draft import Draft
from kis_gateway_deploy.reading import escaped

PRIVATE = re.compile("password|passphrase|secret|token", re.I)


def source(draft: Draft, host: str, data: Mapping[str, Any]) -> str:
    """The inventory of this host; of its earlier `data`, how it is connected to is kept."""
    connection, left_out = _connection(data)
    found = draft.found
    what = "stays in its compose project" if found.compose_file else "is replaced by a copy"
    lines = _comment(
        f"The container {found.name}, as `make adopt` found it: it {what}, and its token is "
        "kept on the host. Read this file, then: make plan INVENTORY=this file"
    )
    if draft.notes:
        lines += ["#", "# To decide by hand:"]
        for note in draft.notes:
            lines += _comment(note, "- ")
    imports = "from pathlib import Path, PosixPath"
    lines += [
        "",
        imports if any(isinstance(v, Path) for v in connection.values()) else imports[:-11],
        "",
        "_here = Path(__file__).resolve().parent",
        "",
        f"gateways = [({host!r}, {{",
    ]
    for name, value in connection.items():
        lines += _entry(name, value)
    if left_out:
        text = escaped(f"left out, add them yourself: {', '.join(left_out)}")
        lines += [f"    {line}" for line in _comment(text)]
    for name, value in draft.data.items():
        if comment := draft.comments.get(name):
            lines += [f"    {line}" for line in _comment(comment)]
        lines += _entry(name, value)
    return "\n".join([*lines, "})]", ""])


def _connection(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The host data that is not this package's, and the names of what is left out of it."""
    prefixes = ("gateway_", "rollout_", "plan_")
    ours = {name: value for name, value in data.items() if not name.startswith(prefixes)}
    kept = {
        name: value
        for name, value in ours.items()
        if not PRIVATE.search(name) and _is_literal(value) and not PRIVATE.search(repr(value))
    }
    return kept, [name for name in ours if name not in kept]


def _is_literal(value: Any) -> bool:
    """Whether its repr means the same value in an inventory."""
    if isinstance(value, Path):
        return True
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False


def _comment(text: str, first: str = "") -> list[str]:
    """An escaped text as lines of a comment."""
    return wrap(
        text,
        96,
        initial_indent=f"# {first}",
        subsequent_indent=f"# {' ' * len(first)}",
        break_on_hyphens=False,
    )


def _entry(name: str, value: Any) -> list[str]:
    text = pformat(value, width=88, sort_dicts=False)
    first, *rest = text.split("\n")
    lines = [f"    {name!r}: {first}", *(indent(line, "    ") for line in rest)]
    lines[-1] += ","
    return lines
