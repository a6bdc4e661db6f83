"""Asks hosts to do something, and shows what they say. Every failure is an outcome with words."""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from signal import SIGPIPE
from typing import Annotated, Any

import click
import gevent
import pyinfra
from pydantic import BaseModel, BeforeValidator, Field, StringConstraints, ValidationError
from pyinfra import logger
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.host import Host

from kis_gateway_deploy import requests
from kis_gateway_deploy.outcomes import DIED, LOST, REFUSED, Gate, follows
from kis_gateway_deploy.reading import escaped
from kis_gateway_deploy.release import Image, archive, simulator_image
from kis_gateway_deploy.remote import NoAnswerError, Octets, RemoteError, ask, reconnect_if_cut
from kis_gateway_deploy.runs import EXIT_BY_SIGNAL
from kis_gateway_deploy.saved_image import cut, pack
from kis_gateway_deploy.session import Session, Target

FETCH_SECONDS = 3600
PREPARE_SECONDS = 300
LOGS_SECONDS = 300
SAY_SECONDS = 10
BEYOND_THE_DEADLINE = 240
"""Seconds that a gate may take beyond its deadline: the patience after a refusal, and a minute."""

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
    gate: Annotated[float, Field(ge=0, lt=10**6)] | None = None
    heard: Words = ""
    log_error: Words = ""

    @property
    def is_good(self) -> bool:
        return follows(self.outcome).is_good

    @property
    def may_have_begun(self) -> bool:
        return self.outcome != REFUSED

    @property
    def touched(self) -> bool:
        """Whether the host has taken up the request's generation."""
        return follows(self.outcome).touched


def _call(
    session: Session,
    host: Host,
    verb: str,
    request: dict[str, Any],
    seconds: int,
    more: Sequence[object] = (),
    show: Callable[[str], None] | None = None,
) -> Result:
    """`show` is called with the host's messages for people, escaped; without it pyinfra shows them.

    They are never part of the result.
    """

    def heard(text: str) -> None:
        if show:
            show(escaped(text))
        else:
            logger.info(f"{host.print_prefix}{escaped(text)}")

    try:
        answer = json.loads(
            ask(host, verb, request, seconds, heard, more, session.connector[host.name])
        )
        if "error" in answer:
            result = Result(outcome=LOST, why=str(answer["error"]))
        else:
            result = Result.model_validate(answer["result"])
    except (RemoteError, ConnectError) as error:
        outcome = DIED if isinstance(error, NoAnswerError) else LOST
        ends = "; a switch that has begun ends on the host by itself" if verb == "switch" else ""
        why = f"{error}\nno answer to {verb!r}{ends}"
        again = "run it again" if verb == "logs" else "deploy again"
        result = Result(outcome=outcome, why=f"{why}: {again}")
    except (ValidationError, KeyError, ValueError, TypeError, RecursionError):
        result = Result(outcome=LOST, why="the host's answer has an unknown form")
    if result.outcome == DIED and not (verb == "switch" and request["recover"] == 0):
        result.outcome = LOST  # nothing more can be asked
    if (not result.is_good and verb != "switch") or result.outcome in {REFUSED, LOST}:
        for line in result.why.splitlines():
            logger.error(f"{host.print_prefix}{click.style(line, 'red')}")
    if result.is_good:
        session.why.pop(host.name, None)
    else:
        session.why[host.name] = result.why
    return result


@contextmanager
def named(host: Host, what: str, seconds: float = SAY_SECONDS) -> Iterator[None]:
    """Says every `seconds` how long something has taken, until it has ended."""

    def say() -> None:
        while True:
            gevent.sleep(seconds)
            logger.info(f"{prefix}{what}: {time.monotonic() - began:.0f} s")

    prefix, began = host.print_prefix, time.monotonic()
    saying = gevent.spawn(say)
    try:
        yield
    finally:
        saying.kill(block=False)


def prepare(session: Session, host: Host, target: Target) -> bool:
    """Puts release and token directory in order, if the plan says so."""
    release = target.release if target.plan.does("release") else None
    tokens = target.plan.does("tokens")
    request = requests.prepare_request(target.settings, release, session.seen(target.name), tokens)
    with named(host, "putting the release on the host"):
        return _call(session, host, "prepare", request, PREPARE_SECONDS).is_good


def fetch(session: Session, host: Host, target: Target, image: Image) -> bool:
    """Has the host pull or build an image, or sends it what it lacks of a saved one."""

    def say(what: str) -> None:
        logger.info(f"{host.print_prefix}{image.reference}: {what}")

    more: Sequence[object] = ()
    try:
        if image.saved is not None:
            reading = target.reading
            on_host, runs = (reading.layers, reading.runs) if reading else ((), ())
            more = cut(pack(image.saved, runs, on_host, say), say)
        elif image.context is not None:
            more = [Octets(archive(image.context.items()))]
    except (OSError, ValueError) as error:
        what = f"could not be packed: {error}. Nothing that runs was changed; correct that"
        say(click.style(f"{what}, and deploy again.", "red"))
        return False
    what = "building" if image.context is not None else "pulling"
    what = "loading" if image.saved is not None else what
    with named(host, f"{what} {image.reference}"):
        request = requests.fetch_request(image)
        return _call(session, host, "fetch", request, FETCH_SECONDS, more).is_good


def start_simulator(session: Session, host: Host) -> bool:
    image = simulator_image().reference
    with named(host, "starting the KIS simulator"):
        return _call(session, host, "simulator", {"image": image}, PREPARE_SECONDS).is_good


def logs(session: Session, host: Host, ago: float, follow: bool) -> bool:
    """Prints the gateway's log on standard output, each line after the host's name.

    `ago`: how many seconds of it.
    """
    width = max(map(len, session.names))

    def show(line: str) -> None:
        try:
            click.echo(f"{host.name:<{width}} | {line}")
        except BrokenPipeError:  # nobody reads on, as after `| head`: ends as SIGPIPE would
            if not pyinfra.is_cli:
                raise
            os._exit(EXIT_BY_SIGNAL + SIGPIPE)

    settings, _ = session.desired[host.name]
    request = requests.logs_request(settings, ago, follow)
    seconds = LOGS_SECONDS + request["follow"]
    return _call(session, host, "logs", request, seconds, show=show).is_good


def switch(session: Session, name: str, action: str, release: str | None, batch: int = 0) -> Result:
    """Has a host switch, with the token of its donor if it gets one.

    Shows what it says as it comes, so that a person sees what is waited for.
    """
    rollout, target = session.rollout, session.targets[name]
    token = None
    may_ask = action not in {"stop", "start", "revert"}
    donor = rollout.issuances.donor_of.get(name) if may_ask else None
    if donor:
        token = _token_from(session, target, donor, batch)
        if not token:
            session.why[name] = f"{donor} could not give its token"
            return Result(outcome=REFUSED, why=session.why[name])
    budget = rollout.budget(name) if action not in {"stop", "start"} else 0
    wait = rollout.wait_for_kis(name, time.monotonic()) if budget else 0
    result = change(session, name, action, release, budget, wait, token)
    rollout.has_issued(name, result.issuances)
    if budget or result.asked or action == "stop":
        rollout.has_asked(name, time.monotonic())
    return result


def change(
    session: Session,
    name: str,
    action: str,
    release: str | None,
    budget: int = 0,
    wait: int = 0,
    token: str | None = None,
) -> Result:
    """One request that changes what runs on a host."""
    generation = secrets.token_hex(8)
    settings = session.targets[name].settings
    host = session.inventory.get_host(name)
    request = requests.switch_request(
        settings,
        action,
        release,
        session.seen(name),
        generation,
        requests.author(),
        budget,
        wait,
        token,
        host.data.get("die_at"),
        session.is_forced_now,
    )
    limit = settings.rollout_healthy_deadline + BEYOND_THE_DEADLINE + settings.stop_grace_seconds
    seconds = 2 * int(limit) + wait
    result = _call(session, host, "switch", request, seconds)
    if result.outcome == DIED:
        said = "no answer to 'switch': the host is asked how it ended, or to end it now"
        logger.warning(f"{host.print_prefix}{click.style(said, 'yellow')}")
        reconnect_if_cut(host)
        again = requests.recovery_of(request, seconds)
        result = _call(session, host, "switch", again, 2 * seconds)
    gate = Gate(result.gate, result.heard, result.log_error)
    session.note_switch(name, release, result.outcome, gate)
    if result.touched:
        session.rollout.generations[name] = generation
    return result


def _token_from(session: Session, target: Target, donor: str, batch: int) -> str:
    """In base64; empty, with words on the screen, if there is none.

    It is in this process's memory, and nowhere else. It is taken once a batch, for a later one may
    find another; not once for each host: an sshd opens ten sessions a connection at most, unless
    told otherwise (sshd_config(5), MaxSessions).
    """
    with session.one_at_a_time:
        taken = donor, target.key_fingerprint, batch
        why = "has no token any more that it could give"
        if taken not in session.tokens:
            try:
                session.tokens[taken] = _take_token(session, donor, target.key_fingerprint)
            except (RemoteError, ConnectError, ValueError, AttributeError) as error:
                session.tokens[taken], why = "", f"could not be asked for its token ({error})"
        token = session.tokens[taken]
    if not token:
        prefix = session.inventory.get_host(target.name).print_prefix
        logger.error(f"{prefix}{click.style(escaped(f'{donor} {why}: deploy again'), 'red')}")
    return token


def _take_token(session: Session, donor: str, key: str) -> str:
    settings, release = session.desired[donor]
    mounted = session.mounted_elsewhere(donor)
    request = requests.token_request(settings, release, key, mounted, session.about)
    host = session.inventory.get_host(donor)
    answer = ask(host, "token", request, connector=session.connector.get(donor))
    token = json.loads(answer).get("result", {}).get("token")
    return token if isinstance(token, str) and BASE64.fullmatch(token) else ""


BASE64 = re.compile("[A-Za-z0-9+/]+=*", re.ASCII)
