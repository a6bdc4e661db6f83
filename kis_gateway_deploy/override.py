"""Checks the operator's compose override: it may add to the gateway's service, not change it.

The host's own compose checks the rest before the switch (`host/prepare.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from kis_gateway_deploy.plain_yaml import load_plain

SETTINGS = {
    "ports": "gateway_port and gateway_bind_address publish the gateway",
    "scale": "there is one container",
    "deploy": "there is one container",
}


def problems_in(content: bytes, service_name: str, token_mount: str) -> list[str]:
    """What is wrong with an override, each in words that follow its path; empty if nothing is."""
    try:
        document = load_plain(content.decode("utf-8"))
    except UnicodeDecodeError:
        return ["is not UTF-8"]
    except ValueError as error:
        return [str(error)]
    services = document.get("services") if isinstance(document, dict) else None
    if not isinstance(services, dict) or list(services) != [service_name]:
        return [f"must have one service, {service_name}"]
    service = services[service_name]
    if not isinstance(service, dict):
        return [f"the service {service_name} must be a mapping"]
    found = [f"may not set {key}: {why}" for key, why in SETTINGS.items() if key in service]
    for source, target in _mounts(service):
        if source.startswith((".", "~")):
            found.append(f"the path {source} is relative, and would be one in the release")
        if f"{target}/".startswith(f"{token_mount}/"):
            found.append(f"may not mount {target}: it would hide the token")
    found += [
        f"the path {path} is relative, and would be one in the release"
        for path in _env_files(service)
        if not path.startswith("/")
    ]
    if any(re.search(r"(?<!\$)(\$\$)*\$(?!\$)", text) for text in _texts(document)):
        found.append("has a `$`, which compose would replace: write `$$`")
    return found


def _mounts(service: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Source and target of each mount; the source of a bind without a slash gets `./`."""
    for mount in _list(service.get("volumes")):
        if isinstance(mount, dict):
            source = str(mount.get("source") or "")
            is_bind = mount.get("type") == "bind"
            yield (
                f"./{source}" if is_bind and not source.startswith("/") else source,
                str(mount.get("target")).rstrip("/"),
            )
        else:
            source, _, rest = str(mount).partition(":")
            yield (source, rest.partition(":")[0].rstrip("/")) if rest else ("", source.rstrip("/"))
    for mount in _list(service.get("tmpfs")):
        yield "", str(mount).partition(":")[0].rstrip("/")


def _env_files(service: dict[str, Any]) -> list[str]:
    return [
        str(each.get("path") if isinstance(each, dict) else each)
        for each in _list(service.get("env_file"))
    ]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
