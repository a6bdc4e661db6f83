"""What differs between two compose files, setting by setting, without what may be secret. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

import yaml

from kis_gateway_deploy.plain_yaml import load_plain
from kis_gateway_deploy.reading import escaped
from kis_gateway_deploy.release import COMPOSE_FILE

HIDDEN = "(hidden)"
CHANGED = "(changed)"
WIDTH = 160
OPERATORS_NAMES = {"environment", "labels"}
"""Mappings whose names the operator chose."""

Path = tuple[str, ...]


def compose_changes(current: str, desired: str, show: Collection[str] = ()) -> list[str]:
    """Each setting that differs, once: `~ mem_limit: 512m -> 768m`, or with `+` or `-`.

    A value that may be secret is shown as `(hidden)`, or as `(changed)` if it differs. `show` are
    names whose values are shown all the same.
    """
    if current == desired:
        return []
    after = yaml.safe_load(desired) or {}
    try:
        before = load_plain(current) or {}  # `up` writes plain YAML only
    except ValueError:
        before = None
    if not isinstance(before, dict):
        return [f"{COMPOSE_FILE}: what is on the host is no compose file, so no change is shown"]
    old, new = dict(_flat(before)), dict(_flat(after))
    services = {str(name) for name in after.get("services") or {}}
    lines = []
    for path in dict.fromkeys([*new, *old]):
        was, becomes = (_shown(path, values.get(path), show) for values in (old, new))
        if path not in old:
            line = f"+ {_name(path, services)}: {becomes}"
        elif path not in new:
            line = f"- {_name(path, services)}: {was}"
        elif _text(old[path]) == _text(new[path]):
            continue
        else:
            change = CHANGED if was == becomes else f"{was} -> {becomes}"
            line = f"~ {_name(path, services)}: {change}"
        line = escaped(line)
        lines.append(line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…")
    return lines or [f"{COMPOSE_FILE}: differs only in comments or layout"]


def variables_in(compose_file: str) -> int:
    """How many variables a compose file of this package sets for its service."""
    found = dict(_flat(yaml.safe_load(compose_file) or {}))
    return sum("environment" in path for path in found)


def _flat(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The values with their paths. Mounts are known by their target, variables by their name."""
    if isinstance(value, list) and path[-1:] == ("environment",):  # NAME=value, or NAME alone
        parts = [str(item).partition("=") for item in value]
        value = {name: text if equals else None for name, equals, text in parts}
    if isinstance(value, list) and value and all(_target(item) for item in value):
        value = {
            _target(item): {key: part for key, part in item.items() if key != "target"}
            for item in value
        }
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _flat(part, (*path, str(key)))
    else:
        yield path, value


def _target(item: Any) -> str:
    return str(item.get("target") or "") if isinstance(item, dict) else ""


def _name(path: Path, services: Collection[str]) -> str:
    is_of_service = path[:1] == ("services",) and len(path) > 2 and path[1] in services
    return ".".join(path[2:] if is_of_service else path)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    return "" if value is None else str(value)


def _shown(path: Path, value: Any, show: Collection[str]) -> str:
    """The value without what may be secret.

    A name says little about its value. So a value is hidden unless it is `harmless`, or its name
    is in `show`, or is one of `COMPOSE_KEYS` and not in a mapping whose names the operator chose.
    """
    if isinstance(value, list):
        return ", ".join(_shown(path, item, show) for item in value)
    name = path[-1] if path else ""
    is_known = name in COMPOSE_KEYS and not OPERATORS_NAMES & {*path[:-1]}
    is_scalar = not isinstance(value, dict)
    is_open = name in show or (is_known and is_scalar) or harmless(value)
    return _text(value) if is_open else HIDDEN


def harmless(value: object) -> bool:
    """Whether a value is a short number, a boolean, a path or an address: these are no secrets.

    Segments of paths are short: a secret in base64 may begin with a slash. An address has neither
    user nor path: webhooks hold their secret there.
    """
    if value is None or isinstance(value, bool):
        return True
    text = str(value)
    return any(re.fullmatch(form, text, re.ASCII) for form in HARMLESS)


HARMLESS = (
    r"[0-9]{1,6}|[0-9]{1,4}\.[0-9]{1,2}|true|false",
    r"\.{0,2}(/[A-Za-z0-9._-]{1,32}){1,12}/?|/",
    r"([a-z][a-z0-9+.-]{0,15}://)?[0-9]{1,3}(\.[0-9]{1,3}){3}(:[0-9]{1,5}){0,2}/?",
    r"[a-z][a-z0-9+.-]{0,15}://[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?/?",
)
# Keys of the compose file whose values the settings restrict to forms that hold no secret.
COMPOSE_KEYS = {
    *("name", "image", "pull_policy", "user", "restart", "stop_grace_period", "type"),
    *("network_mode", "mem_limit", "cpus", "interval", "timeout", "start_period", "driver"),
    *("max-size", "max-file", "extra_hosts", "cap_drop", "security_opt"),
}
