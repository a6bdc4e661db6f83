"""What has no setting, as an override of the compose file."""

from __future__ import annotations

import posixpath
import re
from typing import Any

from kis_gateway_deploy.adopted_inventory.draft import Draft
from kis_gateway_deploy.adopted_inventory.token_place import TokenPlace
from kis_gateway_deploy.description import SecretsFile
from kis_gateway_deploy.override import problems_in
from kis_gateway_deploy.release import to_yaml
from kis_gateway_deploy.setting_forms import SECRETS_TARGET
from kis_gateway_deploy.settings import SERVICE

ENGINE_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)
OWN_HOST = "host.docker.internal:host-gateway"
EMPTY_COUNTS = {"entrypoint", "command"}
"""An empty list in an override takes the image's away."""


def put_override(
    draft: Draft, place: TokenPlace, service: dict[str, Any], secrets: SecretsFile | None
) -> None:
    found = draft.found
    top: dict[str, Any] = {}
    for name in ("entrypoint", "command"):
        if (words := getattr(found, name)) is not None:
            service[name] = list(words)
    if place.working_dir or found.has_working_dir:
        service["working_dir"] = place.working_dir or found.working_dir
    for name in ("dns", "cap_add"):
        if words := getattr(found, name):
            service[name] = list(words)
    is_host = found.network_mode == "host"
    hosts = [each for each in found.extra_hosts if is_host or each != OWN_HOST]
    if hosts:
        service["extra_hosts"] = hosts
    if found.ulimits:
        service["ulimits"] = {
            name: {"soft": soft, "hard": hard} for name, (soft, hard) in found.ulimits.items()
        }
    labels = {
        name: value
        for name, value in found.labels.items()
        if name and not name.startswith("com.docker.") and name != "kis-simulator"
    }
    if labels:
        service["labels"] = labels
    ordinary = {"default", "bridge", "host", "none"}
    if found.network_mode not in ordinary and not found.network_mode.startswith("container:"):
        networks = [each for each in found.networks if ENGINE_NAME.fullmatch(each)]
        if networks:
            service["networks"] = networks
            top["networks"] = {name: {"external": True} for name in networks}
    volumes = _volumes(draft, place, secrets)
    if volumes:
        service["volumes"] = [each for each, _ in volumes]
        names = {each["source"] for each, is_volume in volumes if is_volume}
        if names:
            top["volumes"] = {name: {"external": True} for name in sorted(names)}
    tmpfs = [
        f"{path}:{options}" if options else path
        for path, options in found.tmpfs.items()
        if _can_mount(draft, place, path)
    ]
    if tmpfs:
        service["tmpfs"] = tmpfs
    service = {name: value for name, value in service.items() if value or name in EMPTY_COUNTS}
    if not service:
        return
    lines = ["services:", f"  {SERVICE}:"]
    lines += [f"    {name}: {to_yaml(value)}" for name, value in service.items()]
    lines += [f"{name}: {to_yaml(value)}" for name, value in top.items()]
    content = ("\n".join(lines) + "\n").encode()
    if problems := problems_in(content, SERVICE, place.mount):
        draft.note(f"gateway_compose_override cannot be used: {'; '.join(problems)}")
        return
    draft.put_beside("gateway_compose_override", ".override.yml", content)
    draft.comments["gateway_compose_override"] = f"what has no setting: {', '.join(service)}"


def _volumes(
    draft: Draft, place: TokenPlace, secrets: SecretsFile | None
) -> list[tuple[dict[str, Any], bool]]:
    """The mounts that a copy needs, each with whether it is a named volume."""
    made: dict[str, tuple[dict[str, Any], bool]] = {}
    named = [
        name
        for name, value in draft.found.environment.items()
        if secrets and draft.absolute(value) == secrets.path
    ]
    for mount in draft.found.mounts:
        path = mount.destination
        if secrets and path == secrets.path and (named or path == SECRETS_TARGET):
            continue  # the package mounts it
        if path == place.path or not _can_mount(draft, place, path):
            continue
        is_volume = mount.type == "volume"
        source = mount.name if is_volume else mount.source
        is_usable = (
            ENGINE_NAME.fullmatch(source)
            if is_volume
            else mount.type == "bind" and source.startswith("/")
        )
        if not is_usable:
            draft.note(f"the mount at {path} ({mount.type}) is not taken over")
            continue
        entry = {"type": mount.type, "source": source, "target": path}
        made[path] = (entry | ({} if mount.rw else {"read_only": True}), is_volume)
    if secrets and not named and secrets.path != SECRETS_TARGET:
        draft.note(
            f"no variable names {secrets.path}, so it stays mounted from the host; the copy "
            f"beside the inventory is mounted at {SECRETS_TARGET}"
        )
    return list(made.values())


def _can_mount(draft: Draft, place: TokenPlace, path: str) -> bool:
    """Whether the override may mount something here; notes it if something gets lost."""
    normal = posixpath.normpath(path)
    if f"{path}/".startswith(f"{place.mount}/") or f"{normal}/".startswith(f"{place.mount}/"):
        return False  # the token directory of the host takes its place
    if normal in {"/tmp", SECRETS_TARGET}:  # noqa: S108 - compared, never used
        if normal == SECRETS_TARGET or path not in draft.found.tmpfs:
            draft.note(f"the mount at {path} is not taken over: this package mounts it itself")
        return False
    return path.startswith("/") and normal != "/"
