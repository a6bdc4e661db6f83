"""Asks hosts to do something, and shows what they say. Every failure is an outcome with words."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Sequence
from functools import cache
from threading import Lock
from typing import Annotated, Any

import click
from pydantic import BaseModel, BeforeValidator, StringConstraints, ValidationError
from pyinfra import logger
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.host import Host
from pyinfra.context import inventory

from deploy.gateway import requests
from deploy.gateway.fleet import wanted
from deploy.gateway.reading import escaped
from deploy.gateway.release import Image, archive, simulator_image
from deploy.gateway.rollout import author
from deploy.gateway.saved_image import cut, pack
from deploy.gateway.targets import Target, mounted_elsewhere, rollout, seen
from kis_gateway_deploy.remote import Octets, RemoteError, ask

FETCH_SECONDS = 3600
PREPARE_SECONDS = 300
BEYOND_THE_DEADLINE = 900
"""Seconds that a switch may take beyond twice its deadline: for KIS's minutes and the engine."""

Words = Annotated[
    str,
    BeforeValidator(lambda value: "\n".join(escaped(line) for line in str(value).splitlines())),
    StringConstraints(max_length=1 << 17),
]


class Result(BaseModel):
    """What a call came to; `outcome` as the docstring of the verb's module says."""

    outcome: Words
    why: Words = ""
    issuances: int = 0
    asked: bool = False

    @property
    def is_good(self) -> bool:
        return self.outcome in GOOD

    @property
    def touched(self) -> bool:
        """Whether the host has taken up the request's generation."""
        return self.outcome not in {"refused", "already", LOST}


GOOD = {"prepared", "fetched", "started", "stopped", "switched", "already", "restarted", "reverted"}
GOOD |= {"down"}
LOST = "lost"
"""The outcome of a call without a usable answer."""


def _call(
    host: Host, verb: str, request: dict[str, Any], seconds: int, more: Sequence[object] = ()
) -> Result:
    def show(text: str) -> None:
        logger.info(f"{host.print_prefix}{escaped(text)}")

    try:
        answer = json.loads(ask(host, verb, request, seconds, show, more))
        if "error" in answer:
            result = Result(outcome=LOST, why=str(answer["error"]))
        else:
            result = Result.model_validate(answer["result"])
    except (RemoteError, ConnectError) as error:
        why = f"{error}\nno answer to {verb!r}; a switch that has begun ends on the host by itself"
        result = Result(outcome=LOST, why=f"{why}: deploy again")
    except (ValidationError, KeyError, ValueError):
        result = Result(outcome=LOST, why="the host's answer has an unknown form")
    if (not result.is_good and verb != "switch") or result.outcome in {"refused", LOST}:
        for line in result.why.splitlines():
            logger.error(f"{host.print_prefix}{click.style(line, 'red')}")
    return result


def prepare(host: Host, target: Target) -> bool:
    """Puts release and token directory in order, if the plan says so."""
    release = target.release if target.plan.stage else None
    tokens = target.plan.prepare_tokens
    request = requests.prepare_request(target.settings, release, seen(target), tokens)
    return _call(host, "prepare", request, PREPARE_SECONDS).is_good


def fetch(host: Host, target: Target, image: Image) -> bool:
    """Has the host pull or build an image, or sends it what it lacks of a saved one."""

    def say(what: str) -> None:
        logger.info(f"{host.print_prefix}{image.reference}: {what}")

    more: Sequence[object] = ()
    try:
        if image.saved is not None:
            on_host = target.reading.layers if target.reading else ()
            more = cut(pack(image.saved, on_host, say), say)
        elif image.context is not None:
            more = [Octets(archive(image.context.items()))]
    except (OSError, ValueError) as error:
        what = f"could not be packed: {error}. Nothing that runs was changed; correct that"
        say(click.style(f"{what}, and deploy again.", "red"))
        return False
    return _call(host, "fetch", requests.fetch_request(image), FETCH_SECONDS, more).is_good


def start_simulator(host: Host) -> bool:
    image = simulator_image().reference
    return _call(host, "simulator", {"image": image}, PREPARE_SECONDS).is_good


def switch(
    host: Host, target: Target, action: str, release: str | None, source: str | None, batch: int
) -> bool:
    """Has the host switch; `source` is the host whose token it gets.

    Shows what it says as it comes, so that a person sees what is waited for.
    """
    progress, name = rollout(), target.name
    token = None
    if source:
        token = _token_from(host, target, source, batch)
        if not token:
            return False
    budget = progress.budget(name) if action not in {"stop", "start"} else 0
    wait = progress.wait_for_kis(name, time.monotonic()) if budget else 0
    result = change(host, target, action, release, budget, wait, token)
    progress.has_issued(name, result.issuances)
    if budget or result.asked or action == "stop":
        progress.has_asked(name, time.monotonic())
    return result.is_good


def change(
    host: Host,
    target: Target,
    action: str,
    release: str | None,
    budget: int = 0,
    wait: int = 0,
    token: str | None = None,
) -> Result:
    """One request that changes what runs on a host."""
    generation = secrets.token_hex(8)
    settings = target.settings
    request = requests.switch_request(
        settings,
        action,
        release,
        seen(target),
        generation,
        author(),
        budget,
        wait,
        token,
        host.data.get("die_at"),
    )
    seconds = int(2 * settings.rollout_healthy_deadline) + wait + BEYOND_THE_DEADLINE
    result = _call(host, "switch", request, seconds)
    if result.touched:
        rollout().generations[target.name] = generation
    return result


def _token_from(host: Host, target: Target, source: str, batch: int) -> str:
    """In base64; empty, with words on the screen, if there is none.

    It is in this process's memory, and nowhere else.
    """
    try:
        with _one_at_a_time:
            token = _take_token(source, target.key, batch)
        why = "has no token any more that it could give"
    except (RemoteError, ConnectError, ValueError, AttributeError) as error:
        token, why = "", f"could not be asked for its token ({error})"
    if not token:
        what = f"{source} {why}: deploy again"
        logger.error(f"{host.print_prefix}{click.style(what, 'red')}")
    return token


# The first host of a batch that needs a token takes it for all of them.
_one_at_a_time = Lock()


@cache
def _take_token(source: str, key: str, batch: int) -> str:  # noqa: ARG001
    """In base64; empty where there is none any more. Raises RemoteError.

    Once a batch, for a later one may find another. Not once for each host: an sshd opens ten
    sessions a connection at most, unless told otherwise (sshd_config(5), MaxSessions).
    """
    settings, release = wanted(source)
    mounted = mounted_elsewhere(source)
    request = requests.token_request(settings, release, key, mounted)
    answer = ask(inventory.get_host(source), "token", request)
    token = json.loads(answer).get("result", {}).get("token")
    return token if isinstance(token, str) and BASE64.fullmatch(token) else ""


BASE64 = re.compile("[A-Za-z0-9+/]+=*", re.ASCII)
