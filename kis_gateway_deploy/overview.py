"""What `status` and `history` show, as tables and as JSON. Pure; no secret is in any of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kis_gateway_deploy.display import (
    NOTHING,
    cut,
    image_tag,
    label,
    moment,
    shortened,
    table,
    token_left,
)
from kis_gateway_deploy.host.client import authority
from kis_gateway_deploy.plans import Plan
from kis_gateway_deploy.reading import Event, Reading
from kis_gateway_deploy.settings import Settings

WIDTH = 80
DIGITS = 7
"""Of a release's id, where these are unique."""

KIS_HOST = re.compile(r"(?<![\w.-])openapi(vts)?\.koreainvestment\.com(?![\w.-])")
"""KIS's host for real accounts, or with `vts` for paper accounts."""
WORDS_OF_REAL = {"r", "real"}
WORDS_OF_PAPER = {"v", "vts", "paper", "virtual", "mock"}

Deployment = Literal["switching", "not installed", "failed", "blocked", "drifted", "up to date"]


@dataclass(frozen=True)
class Found:
    """What is known of one host: its settings, its reading, and the plan that follows.

    `is_desired`: whether the release that runs is the one of these settings.
    """

    settings: Settings
    reading: Reading
    plan: Plan
    is_desired: bool = True


Hosts = Mapping[str, Found | str]
"""By the inventory's names; in place of what was found, why a host was not read."""


def status_table(hosts: Hosts) -> str:
    """What runs on each host; below it, what is wrong with those that are not up to date."""
    known = {name: found for name, found in hosts.items() if isinstance(found, Found)}
    short = shortened((found.reading.current or "" for found in known.values()), DIGITS)
    header = ["HOST", "RELEASE", "KIS", "ADDRESS", "RESTARTS", "TOKEN", "STATE"]
    rows = [
        [cut(name), *(_cells(found, short) if isinstance(found, Found) else [found])]
        for name, found in hosts.items()
    ]
    shown = table([header, *rows])
    if max(map(len, shown.splitlines())) > WIDTH:
        shown = table([header, *rows], gap=1)
    causes = [f"{name}: {why}" for name, found in known.items() if (why := _why(found))]
    return "\n".join([shown, *causes])


def _cells(found: Found, short: Mapping[str, str]) -> list[str]:
    settings, reading = found.settings, found.reading
    container = reading.container
    release = NOTHING
    if reading.current:
        tag = cut(image_tag(container.image_name), 12) if container else ""
        release = label(tag, short[reading.current])
    return [
        release,
        account(found) or NOTHING,
        address(found),
        str(container.restarts) if container else NOTHING,
        _token(settings, reading),
        deployment(found),
    ]


def _token(settings: Settings, reading: Reading) -> str:
    """`23 h`, `expired`, `not known`, `elsewhere` (in no file); with what KIS says of it:
    `23 h, accepted`."""
    left = "elsewhere" if settings.token_store == "external" else token_left(reading)
    probe = reading.token_probe
    if probe is None or probe.is_accepted is None:
        return left
    return f"{left}, accepted" if probe.is_accepted else f"refused {probe.code}"


def account(found: Found) -> Literal["real", "paper", ""]:
    """Whether a gateway trades real money, by KIS's address among its variables, or else by the
    name of the app key's field; empty if neither tells, or another release runs."""
    settings = found.settings
    if settings.simulator or not found.is_desired:
        return ""
    named = {
        "paper" if host[1] else "real"
        for value in settings.variables.values()
        for host in KIS_HOST.finditer(value)
    }
    words = {*re.split("[-_.]", settings.app_key_field.lower())}
    is_real, is_paper = bool(words & WORDS_OF_REAL), bool(words & WORDS_OF_PAPER)
    if len(named) == 1:
        is_real, is_paper = "real" in named, "paper" in named
    if is_real == is_paper:
        return ""
    return "real" if is_real else "paper"


def address(found: Found) -> str:
    """Where the gateway listens: `127.0.0.1:8080`."""
    container, settings = found.reading.container, found.settings
    published = container.published() if container else set()
    if len(published) == 1:
        return authority(*published.pop())
    everywhere = settings.network_mode == "host"
    host = "*" if everywhere else settings.bind_address
    return authority(host, settings.published_port)


def deployment(found: Found) -> Deployment:
    """How a host stands: `up to date`, or what is most urgent of it."""
    reading, plan, container = found.reading, found.plan, found.reading.container
    if reading.switching:
        return "switching"
    if reading.current is None and not reading.gateways:
        return "not installed"
    is_bad = reading.client_sees is not None and not reading.client_sees.is_good
    if is_bad or container is None or container.status != "running":
        return "failed"
    if plan.refusals:
        return "blocked"
    return "drifted" if plan.steps or plan.findings else "up to date"


def _why(found: Found) -> str:
    """The first cause why a host is not up to date; empty if it is."""
    reading, plan = found.reading, found.plan
    state = deployment(found)
    if state == "switching" and reading.state:
        return f"{reading.state} since {moment(int(reading.state.began))}"
    if state in {"switching", "not installed", "up to date"}:
        return ""
    sees = reading.client_sees
    if state == "failed" and sees and not sees.is_good:
        return f"a client gets: {sees}"
    reasons = [step.reason for step in plan.steps]
    causes = {"blocked": plan.refusals}.get(state, [*reasons, *plan.findings, *plan.refusals])
    return next(iter(causes), "")


def status_json(hosts: Hosts) -> str:
    """The same as one JSON document; docs/operations.md describes its fields.

    Times are epoch seconds by the host's clock, durations seconds; null is what is not there.
    """
    document = {"version": 1, "hosts": [_object(name, found) for name, found in hosts.items()]}
    return json.dumps(document, indent=2)


def _object(name: str, found: Found | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"host": name, "state": found}
    reading = found.reading
    container = reading.container
    return {
        "host": name,
        "state": "read",
        "deployment": deployment(found),
        "account": account(found) or None,
        "address": address(found),
        "clock": reading.clock,
        "release": reading.current,
        "containers": len(reading.gateways),
        "image": container.image_name if container else None,
        "status": container.status if container else None,
        "health": container.health if container else None,
        "client_sees": str(reading.client_sees) if reading.client_sees else None,
        "restarts": container.restarts if container else None,
        "token_written": reading.token_written,
        "token_expires": reading.token_expires,
        "token_source": reading.token_source,
        "token_expiries": reading.token_expiries,
        "token_probe": reading.token_probe.model_dump() if reading.token_probe else None,
        "switching": reading.switching,
        "changed": reading.state.model_dump() if reading.state else None,
        "history": [
            event.model_dump(by_alias=True) | {"began": event.began // 1000}
            for event in reading.history
        ],
    }


def history_table(hosts: Hosts) -> str:
    """The switches of all hosts, the oldest first; `TAG` is that of the image of the release `TO`.

    A release that is no longer on its host has no tag.
    """
    header = ["WHEN", "HOST", "ACTION", "FROM", "TO", "TAG", "BY", "OUTCOME", "SEC", "NEW"]
    rows = [
        [
            moment(event.began // 1000)[:-3],
            cut(name),
            cut(f"{event.action} (forced)" if event.forced else event.action, 18),
            cut(event.from_) or NOTHING,
            cut(event.to) or NOTHING,
            cut(image_tag(reading.release_images.get(event.to, "")), 12) or NOTHING,
            cut(event.by),
            cut(event.outcome),
            f"{event.seconds:.0f}",
            str(event.issuances),
        ]
        for name, reading, event in _events(hosts)
    ]
    unread = [f"{name}: {found}" for name, found in hosts.items() if isinstance(found, str)]
    if not rows:
        return "\n".join(unread if len(unread) == len(hosts) else [*unread, "no switch yet"])
    return "\n".join([table([header, *rows]), *unread, "NEW: issuances, new tokens that were seen"])


def history_json(hosts: Hosts) -> str:
    """The same as one JSON document: the hosts, with the state `read` or why it was not read, and
    their switches.

    `began` in epoch seconds; `image`: the reference of the release `to`, null if that is no longer
    on the host.
    """
    switches: list[dict[str, Any]] = [
        {"host": name}
        | event.model_dump(by_alias=True)
        | {"began": event.began // 1000, "image": reading.release_images.get(event.to)}
        for name, reading, event in _events(hosts)
    ]
    states = [
        {"host": name, "state": found if isinstance(found, str) else "read"}
        for name, found in hosts.items()
    ]
    return json.dumps({"version": 1, "hosts": states, "switches": switches}, indent=2)


def _events(hosts: Hosts) -> list[tuple[str, Reading, Event]]:
    """The switches of all hosts by the hosts' clocks, the oldest first."""
    events = [
        (name, found.reading, event)
        for name, found in hosts.items()
        if isinstance(found, Found)
        for event in found.reading.history
    ]
    return sorted(events, key=lambda each: each[2].began)
