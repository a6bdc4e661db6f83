"""What an operator is shown of readings and plans, as text. Pure; no secret is in any of it."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import click
import yaml

from kis_gateway_deploy.host.containers import authority
from kis_gateway_deploy.plain_yaml import load_plain
from kis_gateway_deploy.plans import EFFECTS, Plan, Step
from kis_gateway_deploy.reading import Container, Event, Reading
from kis_gateway_deploy.release import COMPOSE_FILE, Release
from kis_gateway_deploy.rollout import Rollout
from kis_gateway_deploy.settings import Settings
from kis_gateway_deploy.windows import KOREA, Window, is_open, opens_at

# In place of a reading: the connection failed, or the command did.
UNREACHABLE = "unreachable"
UNREADABLE = "unreadable"
NO_PYTHON = "no python3"

MINUTE = "%a %Y-%m-%d %H:%M"

NOTHING = "-"
HIDDEN = "(hidden)"
CHANGED = "(changed)"


def status_table(hosts: Mapping[str, Reading | str]) -> str:
    """Two tables: what runs on each host, and below it each host's last switches.

    `hosts` are readings, or `UNREACHABLE` or `UNREADABLE`, by the inventory's names.
    """
    header = ["HOST", "RELEASE", "IMAGE", "HEALTH", "RESTARTS"]
    header += ["TOKEN AGE", "TOKEN VALID FOR", "SWITCH"]
    rows = [
        [name, found] if isinstance(found, str) else [name, *_status_cells(found)]
        for name, found in hosts.items()
    ]
    switches = [
        [name, *_event_cells(event)]
        for name, found in hosts.items()
        if isinstance(found, Reading)
        for event in found.history
    ]
    tables = [_table([header, *rows])]
    if switches:
        header = ["HOST", "WHEN", "BY", "ACTION", "FROM", "TO", "OUTCOME", "SECONDS", "ISSUANCES"]
        tables.append(_table([header, *switches]))
    return "\n\n".join(tables)


def status_json(hosts: Mapping[str, Reading | str]) -> str:
    """The same as one JSON document: a list with an object for each host.

    Times are epoch seconds by the host's clock, durations seconds; null is what is not there.
    """
    return json.dumps([_status_object(name, found) for name, found in hosts.items()], indent=2)


def _status_object(name: str, found: Reading | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"host": name, "state": found}
    container = _container(found)
    return {
        "host": name,
        "state": "read",
        "clock": found.clock,
        "release": found.current,
        "containers": len(found.gateways),
        "image": container.image_name if container else None,
        "status": container.status if container else None,
        "health": container.health if container else None,
        "client_sees": str(found.client_sees) if found.client_sees else None,
        "restarts": container.restarts if container else None,
        "token_written": found.token_written,
        "token_expires": found.token_expires,
        "token_source": found.token_source,
        "token_expiries": found.token_expiries,
        "switching": found.switching,
        "changed": found.state.model_dump() if found.state else None,
        "history": [
            event.model_dump(by_alias=True) | {"began": event.began // 1000}
            for event in found.history
        ],
    }


def history_table(hosts: Mapping[str, Reading | str]) -> str:
    """The switches of all hosts, the oldest first; `TAG` is that of the image of the release `TO`.

    A release that is no longer on its host has no tag. `hosts`: as for `status_table`.
    """
    header = ["WHEN", "HOST", "ACTION", "FROM", "TO", "TAG", "BY", "OUTCOME", "SEC", "NEW"]
    rows = [
        [
            _moment(event.began // 1000)[:-3],
            cut(name),
            cut(event.action),
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
        return "\n".join([*unread, "no switch yet"])
    return "\n".join(
        [_table([header, *rows]), *unread, "NEW: issuances, new tokens that were seen"]
    )


def history_json(hosts: Mapping[str, Reading | str]) -> str:
    """The same as a JSON list with an object for each switch; hosts that were not read come last.

    `began` in epoch seconds; `image`: the reference of the release `to`, null if that is no longer
    on the host.
    """
    found: list[dict[str, Any]] = [
        {"host": name}
        | event.model_dump(by_alias=True)
        | {"began": event.began // 1000, "image": reading.release_images.get(event.to)}
        for name, reading, event in _events(hosts)
    ]
    found += [{"host": name, "state": why} for name, why in hosts.items() if isinstance(why, str)]
    return json.dumps(found, indent=2)


def _events(hosts: Mapping[str, Reading | str]) -> list[tuple[str, Reading, Event]]:
    """The switches of all hosts by the hosts' clocks, the oldest first."""
    events = [
        (name, found, event)
        for name, found in hosts.items()
        if isinstance(found, Reading)
        for event in found.history
    ]
    return sorted(events, key=lambda each: each[2].began)


def image_tag(reference: str) -> str:
    """The tag of an image reference, or else its digest; empty without both.

    Of a hash the first seven digits, as git shows it.
    """
    name, _, digest = reference.rpartition("/")[2].partition("@")
    tag = name.partition(":")[2] or digest.partition(":")[2]
    return tag[:7] if re.fullmatch("[0-9a-f]{12,}", tag) else tag


def cut(text: str, width: int = 16) -> str:
    """The text in at most this many characters."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _container(reading: Reading) -> Container | None:
    """Of several containers, as an interrupted re-creation leaves them, one that serves."""
    return max(reading.gateways, key=lambda container: container.serves, default=None)


def _status_cells(reading: Reading) -> list[str]:
    container = _container(reading)
    if container is None:
        cells = [NOTHING, "no container", NOTHING]
    else:
        health = f"{container.status}/{container.health}" if container.health else container.status
        if reading.client_sees and not reading.client_sees.is_good:
            health += f", a client gets: {reading.client_sees}"
        if len(reading.gateways) > 1:
            health += f" (one of {len(reading.gateways)})"
        cells = [container.image_name, health, str(container.restarts)]
    return [reading.current or NOTHING, *cells, *_token_cells(reading), _under_way(reading)]


def _under_way(reading: Reading) -> str:
    if not reading.switching:
        return NOTHING
    return f"{reading.state} since {_moment(int(reading.state.began))}" if reading.state else "now"


def token_state(reading: Reading) -> str:
    """What the token file shows: `the token is valid for 21 h 04 min (JWT exp)`."""
    if not reading.token_state:
        return "there is no token"
    if reading.token_state == "damaged":
        return "the token file is damaged"
    if reading.token_expires is None:
        return "how long the token is valid cannot be told"
    left = reading.token_expires - reading.clock
    state = f"is valid for {duration(left)}" if left > 0 else "has expired"
    number = len(reading.token_expiries)
    what = f"the last of {number} tokens" if number > 1 else "the token"
    return f"{what} {state} ({reading.token_source})"


def _token_cells(reading: Reading) -> tuple[str, str]:
    """How long ago the token file was written, and for how long its token is still valid.

    Of several tokens the last to expire counts: `21 h 04 min (2 tokens)`.
    """
    if reading.token_written is None:
        return NOTHING, "no token"
    age = duration(reading.clock - reading.token_written)
    if reading.token_expires is None:
        return age, "damaged" if reading.token_state == "damaged" else "not known"
    left = reading.token_expires - reading.clock
    number = len(reading.token_expiries)
    several = f" ({number} tokens)" if number > 1 else ""
    return age, (duration(left) if left > 0 else "expired") + several


def _event_cells(event: Event) -> list[str]:
    return [
        _moment(event.began // 1000),
        event.by,
        f"{event.action} (forced)" if event.forced else event.action,
        event.from_ or NOTHING,
        event.to or NOTHING,
        event.outcome,
        f"{event.seconds:.1f}",
        str(event.issuances),
    ]


def listening_address(settings: Settings) -> str:
    """Where the gateway listens on its host, and for whom."""
    port = settings.published_port
    if settings.network_mode == "host":
        return f"port {port} in the host's own network, on the addresses that it binds itself"
    address = f"http://{authority(settings.bind_address, port)}"
    return f"{address}, open to the network" if settings.is_open else address


def duration(seconds: int) -> str:
    """In words, by its two largest units: `42 s`, `12 min`, `21 h 04 min`, `3 d 04 h`."""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes < 1:
        return f"{max(seconds, 0)} s"  # two clocks, or two moments of one, may disagree
    if hours < 1:
        return f"{minutes} min"
    if days < 2:
        return f"{hours} h {minutes % 60:02} min"
    return f"{days} d {hours % 24:02} h"


def _moment(epoch: int) -> str:
    """In this machine's time zone, where the operator sits."""
    return f"{datetime.fromtimestamp(epoch):%Y-%m-%d %H:%M:%S}"


def window_time(moment: datetime) -> str:
    """In Korean time, and in this machine's if that differs."""
    korean, here = f"{moment.astimezone(KOREA):{MINUTE}}", f"{moment.astimezone():{MINUTE}}"
    return f"{korean} Korean time" + (f" ({here} here)" if here != korean else "")


def closed_window(window: Window | None, moment: datetime) -> str:
    """`the window is closed until Thu 2026-11-26 20:00 Korean time`; empty if it is open."""
    if is_open(window, moment):
        return ""
    return f"the window is closed until {window_time(opens_at(window, moment))}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns; a row may be short."""
    columns = max(len(row) for row in rows)
    widths = [max(len(row[c]) for row in rows if c < len(row)) for c in range(columns)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in rows
    )


def host_plan(
    name: str,
    settings: Settings,
    release: Release,
    reading: Reading,
    plan: Plan,
    in_the_way: Iterable[str],
    notes: Iterable[str] = (),
) -> str:
    """What `up` would change on one host, and why; with what stands in the way of it."""
    in_the_way = list(in_the_way)
    lines = [_line(step) for step in plan.steps]
    if reading.token_state:
        lines.append(f"{settings.token_path}: {token_state(reading)}")
    lines += [click.style(f"! drifted: {finding}", "yellow") for finding in plan.findings]
    lines += notes
    if plan.does("release", "switch"):
        lines += _file_changes(release, reading)
    if reading.current != release.id:
        before, desired = reading.current_compose, release.compose_file
        lines += compose_diff(before, desired, release.id, settings.plan_show)
    lines += [click.style(f"! {warning}", "yellow") for warning in plan.warnings]
    lines += [click.style(f"! in the way: {problem}", "red") for problem in in_the_way]
    return "\n  ".join([_head(name, plan, bool(in_the_way)), *lines])


def _head(name: str, plan: Plan, is_blocked: bool) -> str:
    """`web-1: up to date`, or drifted, or its changes; or blocked, whatever else it is."""
    changes = f"{len(plan.steps)} {'change' if len(plan.steps) == 1 else 'changes'}"
    if is_blocked:
        state = f"blocked ({changes})" if plan.steps else "blocked"
    elif plan.steps:
        state = changes
    else:
        state = "drifted" if plan.findings else "up to date"
    return click.style(f"{name}: {state}", bold=True)


def _line(step: Step) -> str:
    return f"- {step.reason} -> {EFFECTS[step.does]}"


def not_read(name: str, why: str) -> str:
    """The plan of a host that did not answer."""
    return click.style(f"{name}: {why}, so nothing is known of it", "red")


def without_python(name: str, plan: Plan) -> str:
    """The plan of a host that cannot be read yet."""
    lines = [_line(step) for step in plan.steps]
    lines += [click.style(f"! in the way: {problem}", "red") for problem in plan.refusals]
    return "\n  ".join([_head(name, plan, bool(plan.refusals)), *lines])


def token_notes(name: str, rollout: Rollout) -> list[str]:
    """Where the token of a host that is about to be switched comes from, if not from itself."""
    notes = []
    if name in rollout.looping:
        notes.append("crash loop (EGW00133) detected: the gateway is stopped first")
    if name in rollout.issuances.issuers:
        notes.append("There is no valid token: the gateway asks KIS for one. (1 issuance)")
    if source := rollout.issuances.donor_of.get(name):
        notes.append(f"The token comes from {source}.")
    return notes


def budget(issuers: Sequence[str]) -> str:
    """`issuances: 1 (lab-1)`: how many a deploy would take, and on which hosts."""
    return f"issuances: {len(issuers)}" + (f" ({', '.join(issuers)})" if issuers else "")


Word = Literal["failed", "blocked", "changes", "drifted", "up to date", "read"]
WORDS: tuple[Word, ...] = ("failed", "blocked", "changes", "drifted", "up to date", "read")
"""How a host stands at the end of a run; of several hosts the first of these counts."""


def last_line(verb: str, hosts: Mapping[str, Word]) -> str:
    """How a run ended, for scripts: `drift: drifted on 1 of 3 hosts (web-2)`."""
    if not hosts:
        return f"{verb}: failed on 0 of 0 hosts"
    word = min(hosts.values(), key=WORDS.index)
    names = [name for name, its in hosts.items() if its == word]
    who = "" if word in {"up to date", "read"} else f" ({', '.join(names)})"
    return f"{verb}: {word} on {len(names)} of {len(hosts)} hosts{who}"


def _file_changes(release: Release, reading: Reading) -> list[str]:
    """Of the files beside the compose file nothing is shown but that they differ."""
    if reading.current == release.id:
        return []
    before = reading.current_files
    lines = []
    for name in sorted({*release.files, *before} - {COMPOSE_FILE}):
        if name not in before:
            lines.append(f"{name}: new")
        elif name not in release.files:
            lines.append(f"{name}: not in the release any more")
        elif release.files[name].sha256 != before[name]:
            lines.append(f"{name}: changed")
    return lines


def compose_diff(
    current: str, desired: str, release_id: str, show: Collection[str] = ()
) -> list[str]:
    """A unified diff of what two compose files say: without comments, and one value a line.

    A value that may be secret is shown as `(hidden)`, or as `(changed)` if it differs. `show` are
    names whose values are shown all the same.
    """
    if current == desired:
        return []
    after = yaml.safe_load(desired)
    try:
        before = load_plain(current) or {}  # `up` writes plain YAML only
    except ValueError:
        before = None
    if not isinstance(before, dict):
        return [f"{COMPOSE_FILE}: what lies on the host is no compose file, so no diff is shown"]
    old = _as_lines(_redact(before, None, show))
    new = _as_lines(_redact(after, before, show))
    diff = difflib.unified_diff(
        old, new, f"{COMPOSE_FILE} on the host", f"{COMPOSE_FILE} of {release_id}", lineterm=""
    )
    colours = {"+": "green", "-": "red"}
    lines = [click.style(line, colours.get(line[0])) for line in diff]
    return lines or [f"{COMPOSE_FILE}: differs only in comments or layout"]


def _as_lines(value: Any) -> list[str]:
    if not value:
        return []
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=float("inf"))
    return text.splitlines()


def _redact(
    value: Any, other: Any, show: Collection[str], name: str = "", is_own: bool = False
) -> Any:
    """`value` without what may be secret; `other` is its counterpart in the other file.

    A name says little about its value. So a value is hidden unless it is `harmless`, or its name
    is in `show`, or is one of `COMPOSE_KEYS` and not in a mapping whose names the operator chose.
    """
    if isinstance(value, dict):
        others = other if isinstance(other, dict) else {}
        own = is_own or name in {"environment", "labels"}
        return {
            key: _redact(item, others.get(key), show, str(key), own) for key, item in value.items()
        }
    if isinstance(value, list) and name == "environment":  # NAME=value, or NAME alone
        before = _variables(other) if isinstance(other, list) else {}
        return [
            f"{key}={_redact(item, before.get(key), show, key)}" if item is not None else key
            for key, item in _variables(value).items()
        ]
    if isinstance(value, list):
        known = other if isinstance(other, list) else []
        return [
            _redact(item, item if item in known else None, show, name, is_own) for item in value
        ]
    if name in show or (name in COMPOSE_KEYS and not is_own) or harmless(value):
        return value
    return HIDDEN if other in (None, value) else CHANGED


def _variables(environment: list[Any]) -> dict[str, str | None]:
    parts = [str(item).partition("=") for item in environment]
    return {name: value if equals else None for name, equals, value in parts}


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
