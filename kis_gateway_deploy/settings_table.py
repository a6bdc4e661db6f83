"""The page of all settings, made from `Settings`: `python -m kis_gateway_deploy.settings_table`.

It prints the page; with `--write` it writes docs/settings.md instead.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
from typing import Any

from pydantic.fields import FieldInfo

from kis_gateway_deploy.paths import ROOT
from kis_gateway_deploy.settings import REQUIRED, Settings, alias

PAGE = ROOT / "docs/settings.md"

HEAD = """\
# Settings

This page is generated from `kis_gateway_deploy/settings.py`; a test compares the two. Set
these names in a host's inventory data, or in `group_data/GROUP.py` beside the inventory.

Required, except for a gateway in its own compose project (`gateway_compose_file`): {required}.

An unknown name is an error that suggests the nearest known name. All wrong settings of all hosts
are listed at once, before any host is touched. `rollout_batches`, `rollout_revert`,
`rollout_share_token`, `rollout_window` and `rollout_krx_hours` must be the same for all hosts of an
inventory. A path on the deploying machine is a string or a `pathlib.Path`; `~` is not expanded.

| name | meaning | default |
| --- | --- | --- |
"""


def settings_page() -> str:
    """The page as markdown: one row for each field, in the model's order.

    Raises:
        KeyError: a field has no description below it.
    """
    fields, meanings = Settings.model_fields, _descriptions()
    required = [f"`{name}`" for name in REQUIRED]
    rows = [
        f"| `{alias(name)}` | {meanings[name]} | {_default(name, field)} |"
        for name, field in fields.items()
    ]
    return HEAD.format(required=", ".join(required)) + "\n".join(rows) + "\n"


def _descriptions() -> dict[str, str]:
    """The docstring below each field.

    pydantic can read them, too (`use_attribute_docstrings`), but then every deploy does: 13 ms.
    """
    [model] = ast.parse(inspect.getsource(Settings)).body
    assert isinstance(model, ast.ClassDef)  # noqa: S101 - for mypy
    return {
        field.target.id: inspect.cleandoc(text.value.value).replace("\n", " ")
        for field, text in zip(model.body, model.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _default(name: str, field: FieldInfo) -> str:
    """The default as it is written in an inventory."""
    if alias(name) in REQUIRED:
        return "required"
    default: Any = field.default
    if default is None or default == "":
        return "none"
    if isinstance(default, list | frozenset):
        default = json.dumps(list(default))
    return f"`{default}`"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(settings_page(), "utf-8")
    else:
        sys.stdout.write(settings_page())
