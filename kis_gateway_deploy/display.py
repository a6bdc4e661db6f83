"""What an operator is shown of readings and plans, as text. Pure; no secret is in any of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Literal, get_args

import click

from kis_gateway_deploy.compose_changes import CHANGED, compose_changes, variables_in
from kis_gateway_deploy.host.client import authority
from kis_gateway_deploy.plans import CREATES, EFFECTS, Plan, Step
from kis_gateway_deploy.reading import Reading, escaped
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


def image_tag(reference: str) -> str:
    """The tag of an image reference, or else its digest; empty without both.

    Of a hash the first seven digits, as git shows it.
    """
    name, _, digest = reference.rpartition("/")[2].partition("@")
    tag = name.partition(":")[2] or digest.partition(":")[2]
    return tag[:7] if re.fullmatch("[0-9a-f]{12,}", tag) else tag


def label(tag: str, release: str) -> str:
    """`1.4 (a1b2c3d)`: a release by its image's tag and its id."""
    return f"{tag} ({release})" if tag else release


def shortened(releases: Iterable[str], digits: int) -> dict[str, str]:
    """The ids, each with its first digits: so many, or as many as make them unique."""
    found = {*releases}
    while digits < 12 and len({each[:digits] for each in found}) < len(found):
        digits += 1
    return {each: each[:digits] for each in found}


def cut(text: str, width: int = 16) -> str:
    """The text in at most this many characters."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


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


def token_left(reading: Reading) -> str:
    """For how long the token is valid, in short: `23 h`, `expired`, `not known`.

    Of several tokens the last to expire counts: `23 h (2)`.
    """
    if not reading.token_state:
        return "none"
    if reading.token_expires is None:
        return "damaged" if reading.token_state == "damaged" else "not known"
    seconds, number = reading.token_expires - reading.clock, len(reading.token_expiries)
    left = duration(seconds).partition(" h ")
    short = f"{left[0]} h" if left[1] else left[0]
    several = f" ({number})" if number > 1 else ""
    return (short if seconds > 0 else "expired") + several


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


def moment(epoch: int) -> str:
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


def table(rows: Sequence[Sequence[str]], gap: int = 2) -> str:
    """Left-aligned columns with `gap` blanks between them; a row may be short."""
    columns = max(len(row) for row in rows)
    widths = [max(len(row[c]) for row in rows if c < len(row)) for c in range(columns)]
    return "\n".join(
        (" " * gap)
        .join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False))
        .rstrip()
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
    is_there = bool(reading.gateways)
    lines = [_line(step, is_there) for step in plan.steps]
    if reading.token_state:
        lines.append(f"{settings.token_path}: {token_state(reading)}")
    lines += [click.style(f"! drifted: {finding}", "yellow") for finding in plan.findings]
    lines += notes
    lines += _changes(settings, release, reading)
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


def _line(step: Step, is_there: bool = True) -> str:
    """`is_there`: whether the host has a container."""
    effect = EFFECTS[step.does] if is_there or step.does != "switch" else CREATES
    return f"- {step.reason} -> {effect}"


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


Coming = Literal[
    "to re-create", "to install", "to prepare", "up to date", "drifted", "blocked", "not read"
]
"""What a deploy would come to on a host. `to prepare`: steps without a switch."""
ALWAYS_COUNTED: tuple[Coming, ...] = ("to re-create", "to install", "up to date")


def coming(plan: Plan, reading: Reading | None, is_blocked: bool) -> Coming:
    """`reading`: None for a host that lacks python3."""
    if is_blocked:
        return "blocked"
    if not plan.steps:
        return "drifted" if plan.findings else "up to date"
    if not plan.may("switch"):
        return "to prepare"
    return "to re-create" if reading and reading.current else "to install"


def plan_count(hosts: Sequence[Coming], issuers: Sequence[str] | None) -> str:
    """`Plan: 1 to re-create, 0 to install, 3 up to date; issuances: 1 (lab-1)`.

    `issuers`: the hosts whose gateway would ask KIS; None if that is not known.
    """
    counts = [
        f"{hosts.count(each)} {each}"
        for each in get_args(Coming)
        if each in hosts or each in ALWAYS_COUNTED
    ]
    line = f"Plan: {', '.join(counts)}"
    if issuers is None:
        return line
    names = f" ({', '.join(issuers)})" if issuers else ""
    return f"{line}; issuances: {len(issuers)}{names}"


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


def _changes(settings: Settings, release: Release, reading: Reading) -> list[str]:
    """What differs between the release that runs and the desired one, each setting once.

    Of the files beside the compose file nothing is shown but that they differ.
    """
    if reading.current == release.id:
        return []
    if reading.current is None and not settings.is_in_place:
        return _first_release(settings, release)
    desired, current = release.compose_file, reading.current_compose
    lines = compose_changes(current, desired, settings.plan_show) + _file_changes(release, reading)
    if not lines:
        return ["  only what the package itself reads differs, such as gateway_health_path"]
    colours = {"+": "green", "-": "red", "~": "yellow"}
    return [f"  {click.style(line, colours.get(line[0]))}" for line in lines]


def _first_release(settings: Settings, release: Release) -> list[str]:
    number = variables_in(release.compose_file) + len(settings.env_names)
    files = sorted({*release.files} - {COMPOSE_FILE})
    facts = [
        f"image: {release.image.reference}",
        f"address: {listening_address(settings)}",
        f"user: {settings.user}",
        f"token directory: {settings.token_dir}",
        f"variables: {number}" + (f"; files: {', '.join(files)}" if files else ""),
    ]
    return [f"  {click.style(f'+ {fact}', 'green')}" for fact in facts]


def _file_changes(release: Release, reading: Reading) -> list[str]:
    before = reading.current_files
    lines = []
    for name in sorted({*release.files, *before} - {COMPOSE_FILE}):
        shown = cut(escaped(name), 80)
        if name not in before:
            lines.append(f"+ {shown}")
        elif name not in release.files:
            lines.append(f"- {shown}")
        elif release.files[name].sha256 != before[name]:
            lines.append(f"~ {shown}: {CHANGED}")
    return lines
