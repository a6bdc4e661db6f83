"""The inventory that deploys a copy of a container.

Pure. What is shown of a description is escaped, or written as a Python literal. No value of a
variable or of a secrets file is in the inventory unless it is `compose_changes.harmless`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kis_gateway_deploy.adopted_inventory.compose_override import put_override
from kis_gateway_deploy.adopted_inventory.draft import Draft
from kis_gateway_deploy.adopted_inventory.gateway import (
    note_doubts,
    put_health_path,
    put_healthcheck,
    put_image,
    put_limits,
    put_network,
)
from kis_gateway_deploy.adopted_inventory.source import source
from kis_gateway_deploy.adopted_inventory.token_place import TokenPlace, place_token
from kis_gateway_deploy.adopted_inventory.variables import put_environment, put_secrets
from kis_gateway_deploy.description import Container
from kis_gateway_deploy.settings import SERVICE, Settings


@dataclass(frozen=True)
class Written:
    """An inventory, the files beside it by suffix (secret), and what is to be decided by hand."""

    inventory: str
    companions: dict[str, bytes] = field(repr=False)
    notes: tuple[str, ...]
    kept_apart: tuple[str, ...]
    """The names of the variables in the env file."""


SUFFIXES = (".env", ".secrets.json", ".secrets.yaml", ".override.yml")
"""Of the files that may be written beside `NAME.py`: `NAME.env`."""


def write(host: str, data: Mapping[str, Any], found: Container, clock: int, stem: str) -> Written:
    """The inventory that deploys a copy of a container, and the files that it needs.

    `data`: the host's inventory data; `clock`: the host's, epoch seconds; `stem`: the inventory's
    name without `.py`.
    """
    draft = Draft(found, clock, stem)
    place = place_token(draft)
    if found.compose_file:
        _in_place(draft, place)
    else:
        _on_its_own(draft, place)
    if found.app_dir_in_use:
        _apart_from_another(draft)
    return Written(
        source(draft, host, data), draft.companions, tuple(draft.notes), tuple(draft.env_names)
    )


def _in_place(draft: Draft, place: TokenPlace) -> None:
    """The gateway stays a service of the operator's compose project."""
    found = draft.found
    draft.put("gateway_compose_file", found.compose_file)
    draft.put("gateway_service", found.labels.get("com.docker.compose.service", ""))
    if found.user:
        draft.put("gateway_user", found.user)
    put_network(draft, is_in_place=True)
    put_health_path(draft)
    draft.data |= place.settings
    if place.is_moved:
        draft.put("gateway_adopt_token_path", place.adopted)
    files = found.labels.get("com.docker.compose.project.config_files", "").split(",")
    if len(files) > 1:
        draft.note(f"its compose project has several files: {', '.join(files)}")


def _apart_from_another(draft: Draft) -> None:
    """Names of its own: with the defaults, it would replace the gateway that has them."""
    name = re.sub("[^a-z0-9]+", "-", draft.found.name.lower()).strip("-") or "adopted"
    why = "the host has another gateway of this package: this one has its own names"
    draft.put("gateway_app_dir", f"/opt/kis-gateway-{name}", why)
    draft.put("gateway_token_dir", f"/docker_data/kis_tokens_{name}")
    if not draft.found.compose_file:
        draft.put("gateway_project", f"kis-{name}")


def _on_its_own(draft: Draft, place: TokenPlace) -> None:
    """A container of `docker run` becomes a release of this package."""
    found = draft.found
    put_image(draft)
    if found.user:
        draft.put("gateway_user", found.user)
    put_network(draft, is_in_place=False)
    secrets = put_secrets(draft)
    service: dict[str, Any] = {"environment": put_environment(draft, place, secrets)}
    if "gateway_app_key_field" not in draft.data:
        draft.note(
            "gateway_app_key_field: no app key was found in the container's variables and "
            "mounted files: set it, and gateway_secrets_file (or gateway_env_file)"
        )
    put_health_path(draft)
    put_healthcheck(draft, service)
    put_limits(draft)
    draft.data |= place.settings
    if draft.put("gateway_adopt_container", found.name):
        if f"{Settings.model_fields['project'].default}-{SERVICE}-1" == found.name:
            draft.data["gateway_project"] = "kis-adopted"
        if place.adopted:
            draft.put("gateway_adopt_token_path", place.adopted)
    put_override(draft, place, service, secrets)
    note_doubts(draft)
