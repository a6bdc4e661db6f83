"""Secrets file and variables of the container. No secret is in a setting."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from typing import Any

from kis_gateway_deploy.adopted_inventory.draft import NAME, Draft
from kis_gateway_deploy.adopted_inventory.token_place import TokenPlace
from kis_gateway_deploy.compose_changes import harmless
from kis_gateway_deploy.credentials import find_app_key
from kis_gateway_deploy.description import SecretsFile
from kis_gateway_deploy.env_file import EnvFileError, values_in
from kis_gateway_deploy.plain_yaml import load_plain
from kis_gateway_deploy.setting_forms import SECRETS_TARGET
from kis_gateway_deploy.settings import RESERVED_ENVIRONMENT

KEY_NAME = re.compile("app[-_]?key", re.I)


def put_secrets(draft: Draft) -> SecretsFile | None:
    """The secrets file, which is written beside the inventory, and the app key's field."""
    wanted = draft.absolute(draft.found.variables.get("SECRETS_FILE", "") or "/")
    for each in sorted(draft.found.secrets, key=lambda file: file.path != wanted):
        try:
            content = base64.b64decode(each.content, validate=True)
            is_yaml = each.path.endswith((".yaml", ".yml"))
            text = content.decode()
            fields = load_plain(text) if is_yaml else json.loads(text)
        except (ValueError, RecursionError):
            continue
        names = [name for name in _key_names(fields) if find_app_key(fields, name)]
        if not names:
            continue
        suffix = ".secrets.yaml" if is_yaml else ".secrets.json"
        draft.put_beside("gateway_secrets_file", suffix, content)
        _put_app_key_field(draft, names, each.path)
        return each
    return None


def _put_app_key_field(draft: Draft, names: Sequence[str], where: str) -> None:
    draft.put("gateway_app_key_field", names[0])
    if len(names) > 1:
        draft.note(
            f"gateway_app_key_field: {where} has several app keys ({', '.join(names[:10])}): "
            f"is {names[0]} the one that the token is for?"
        )


def put_environment(draft: Draft, place: TokenPlace, secrets: SecretsFile | None) -> dict[str, str]:
    """Sets the variables; returns those that only the override can set."""
    plain: dict[str, str] = {}
    lines: dict[str, str] = {}
    rest: dict[str, str] = {}
    port = str(draft.data.get("gateway_container_port", 8080))
    token_env = place.variables if place.settings else ["KIS_TOKEN_FILE_PATH"]
    for name, value in draft.found.environment.items():
        if place.settings and name in token_env:
            continue
        if name in RESERVED_ENVIRONMENT or name in token_env:
            follows = {"PORT": port}
            if secrets:
                follows["SECRETS_FILE"] = secrets.path
            if follows.get(name) != value:
                rest[name] = value
        elif NAME.fullmatch(name) and secrets and draft.absolute(value) == secrets.path:
            plain[name] = SECRETS_TARGET
        elif NAME.fullmatch(name) and harmless(value):
            plain[name] = value
        elif line := _env_line(name, value):
            lines[name] = line
        elif name and "=" not in name:
            rest[name] = value
    if plain:
        draft.data["gateway_environment"] = plain
    if lines:
        draft.env_names = list(lines)
        draft.put_beside("gateway_env_file", ".env", "".join(lines.values()).encode())
    if "gateway_app_key_field" not in draft.data and not secrets:
        settable = {n: v for n, v in draft.found.environment.items() if n in {*plain, *lines}}
        names = [name for name in _key_names(settable) if find_app_key(settable, name)]
        if names:
            _put_app_key_field(draft, names, "the container's environment")
    return rest


def _key_names(fields: Any) -> list[str]:
    """The names, or dotted paths, of fields that look like an app key, the real ones first."""
    found: list[str] = []
    open_ends: list[tuple[str, Any]] = [("", fields)]
    for path, value in open_ends:  # grows meanwhile
        if isinstance(value, dict):
            open_ends += [(f"{path}.{name}" if path else str(name), v) for name, v in value.items()]
        elif isinstance(value, str) and value:
            last = path.rpartition(".")[2]
            if KEY_NAME.search(last) and "secret" not in last.lower():
                found.append(path)
    return sorted(
        found, key=lambda name: bool(re.search("paper|virtual|mock|vts|-v-|_v_", name, re.I))
    )


def _env_line(name: str, value: str) -> str:
    """The line of an env file that means this value; empty if none does."""
    quoted = value.replace("'", "\\'")
    for line in (f"{name}='{quoted}'\n", f"{name}={value}\n"):
        try:
            if "\r" not in value and values_in(line.encode()) == {name: value}:
                return line
        except EnvFileError:
            continue
    return ""
