from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click
import pytest

from kis_gateway_deploy import display
from kis_gateway_deploy.plans import Does, Plan, Step, make_plan, plan_without_python
from kis_gateway_deploy.reading import Reading
from kis_gateway_deploy.release import COMPOSE_FILE, Release, make_release
from kis_gateway_deploy.settings import Settings
from kis_gateway_deploy.windows import KOREA, outside_krx
from tests.unit import builders
from tests.unit.builders import container, reading

CLOCK = 1795470000


@pytest.fixture(autouse=True)
def in_korea(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Seoul")
    time.tzset()


def plain(text: str) -> str:
    """The text without colors, as a file or a pipe receives it."""
    return click.unstyle(text)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "0 s"),
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h 00 min"),
        (21 * 3600 + 4 * 60 + 59, "21 h 04 min"),
        (86400, "24 h 00 min"),
        (2 * 86400 - 1, "47 h 59 min"),
        (3 * 86400 + 4 * 3600, "3 d 04 h"),
    ],
)
def test_durations(seconds: int, words: str) -> None:
    assert display.duration(seconds) == words


@pytest.mark.parametrize(
    ("zone", "words"),
    [
        ("Asia/Seoul", "Thu 2026-11-26 20:00 Korean time"),
        ("UTC", "Thu 2026-11-26 20:00 Korean time (Thu 2026-11-26 11:00 here)"),
        ("America/New_York", "Thu 2026-11-26 20:00 Korean time (Thu 2026-11-26 06:00 here)"),
    ],
)
def test_the_time_of_a_window_is_shown_in_both_zones(
    monkeypatch: pytest.MonkeyPatch, zone: str, words: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    window = outside_krx("07:00-20:00")
    closed, opens = (datetime(2026, 11, 26, hour, tzinfo=KOREA) for hour in (12, 20))
    assert display.closed_window(window, closed) == f"the window is closed until {words}"
    assert display.closed_window(window, opens) == display.closed_window(None, closed) == ""


def shown(
    host: Reading, settings: Settings, release: Release, in_the_way: tuple[str, ...] = ()
) -> list[str]:
    plan = make_plan(settings, release, host)
    return plain(display.host_plan("web-1", settings, release, host, plan, in_the_way)).splitlines()


TOKEN = "  /docker_data/kis_tokens/kis_token.json: the token is valid for 20 h 00 min (expires_at)"


def test_a_plan_without_changes() -> None:
    lines = shown(reading(), builders.settings(), builders.release())
    assert lines == ["web-1: up to date", TOKEN]
    without = shown(reading(**builders.NO_TOKEN), builders.settings(), builders.release())
    assert TOKEN not in without


DRIFTED: dict[str, Any] = {
    "containers": (container(name="/kis-kis-gateway-1", restarts=3),),
    "client_sees": {"status": 503},
}
FOUND = [
    "  ! drifted: the container restarted 3 times since it was created: see `docker logs "
    "kis-kis-gateway-1`",
    "  ! drifted: a client that asks /health gets: HTTP 503",
]


def test_a_plan_of_a_host_that_has_drifted() -> None:
    settings, release = builders.settings(), builders.release()
    first = "web-1: drifted"
    assert shown(reading(**DRIFTED), settings, release) == [first, TOKEN, *FOUND]
    blocked = shown(reading(**DRIFTED), settings, release, in_the_way=("web-2 is refused",))
    assert blocked == ["web-1: blocked", TOKEN, *FOUND, "  ! in the way: web-2 is refused"]


def test_drift_is_listed_below_the_changes() -> None:
    directory = {"mode": "755", "owner": "10001:10001", "kind": "directory"}
    host = reading(**DRIFTED, token_dir=directory)
    reason = (
        "  - /docker_data/kis_tokens: its owner or mode is not right -> the token directory is put "
        "in order; nothing that runs is touched"
    )
    lines = shown(host, builders.settings(), builders.release())
    assert lines == ["web-1: 1 change", reason, TOKEN, *FOUND]


def test_a_plan_of_a_host_without_python() -> None:
    plan = plan_without_python(builders.settings())
    assert plain(display.without_python("web-1", plan)).splitlines() == [
        "web-1: 1 change",
        "  - python3 is missing -> python3 is installed, and the host is read after that",
    ]
    plan = plan_without_python(builders.settings(install_docker=False))
    assert plain(display.without_python("web-1", plan)).splitlines() == [
        "web-1: blocked",
        "  ! in the way: python3 is missing here and gateway_install_docker is off: install it, or "
        "turn that on",
    ]


def test_a_plan_of_a_changed_setting() -> None:
    before, settings = builders.settings(), builders.settings(environment={"GREETING": "hello"})
    old, new = make_release(before), make_release(settings)
    host = reading(
        current=old.id,
        current_compose=old.files[COMPOSE_FILE].content.decode(),
        current_files={
            COMPOSE_FILE: old.files[COMPOSE_FILE].sha256,
            "secrets.json": "0" * 64,
            "gateway.env": "0" * 64,
        },
        release_damage="is not on the host",
    )
    lines = shown(host, settings, new, in_the_way=("the disk is full",))
    assert lines[3] == TOKEN
    assert lines[:3] + lines[4:] == [
        "web-1: blocked (2 changes)",
        f"  - release {new.id}: is not on the host -> the release is put on the host; nothing that "
        "runs is touched",
        f"  - release {old.id} runs, not {new.id} -> the container is re-created",
        "    + environment.GREETING: (hidden)",
        "    - gateway.env",
        "    ~ secrets.json: (changed)",
        "  ! in the way: the disk is full",
    ]


def test_a_first_deploy_is_summarised() -> None:
    settings = builders.settings()
    release = make_release(settings)
    lines = shown(reading(**builders.FRESH), settings, release)
    assert [line for line in lines if line.startswith("    ")] == [
        "    + image: registry.example/kis:1.4",
        "    + address: http://127.0.0.1:8080",
        "    + user: 10001:10001",
        "    + token directory: /docker_data/kis_tokens",
        "    + variables: 4; files: secrets.json",
    ]


def test_a_difference_that_no_file_shows_is_named() -> None:
    old, settings = make_release(builders.settings()), builders.settings(health_path="/other")
    files = {name: file.sha256 for name, file in old.files.items()}
    host = reading(current=old.id, current_compose=old.compose_file, current_files=files)
    assert shown(host, settings, make_release(settings))[-1] == (
        "    only what the package itself reads differs, such as gateway_health_path"
    )


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (builders.FRESH, "no gateway container is there -> the container is created"),
        (
            {"containers": (container(status="exited"),)},
            "the container is exited, its health is healthy -> the container is re-created",
        ),
    ],
)
def test_the_plan_shows_what_happens_to_the_container(changes: dict[str, Any], line: str) -> None:
    assert line in "\n".join(shown(reading(**changes), builders.settings(), builders.release()))


def test_an_unreachable_host() -> None:
    assert plain(display.not_read("web-3", display.UNREACHABLE)) == (
        "web-3: unreachable, so nothing is known of it"
    )


def plan_of(*does: Does, findings: Sequence[str] = ()) -> Plan:
    return Plan(tuple(Step(each, "why") for each in does), findings=list(findings))


@pytest.mark.parametrize(
    ("plan", "changes", "is_blocked", "word"),
    [
        (plan_of("release", "switch"), {}, False, "to re-create"),
        (plan_of("release", "switch"), builders.FRESH, False, "to install"),
        (plan_of("bootstrap"), None, False, "to install"),
        (plan_of("tokens"), {}, False, "to prepare"),
        (plan_of(), {}, False, "up to date"),
        (plan_of(findings=["it restarted"]), {}, False, "drifted"),
        (plan_of("switch"), {}, True, "blocked"),
    ],
)
def test_what_comes_to_a_host(
    plan: Plan, changes: dict[str, Any] | None, is_blocked: bool, word: str
) -> None:
    host = None if changes is None else reading(**changes)
    assert display.coming(plan, host, is_blocked) == word


@pytest.mark.parametrize(
    ("hosts", "issuers", "line"),
    [
        (
            ["to re-create", "up to date", "up to date", "up to date"],
            [],
            "Plan: 1 to re-create, 0 to install, 3 up to date; issuances: 0",
        ),
        (
            ["to install", "to install", "to prepare"],
            ["lab-1"],
            "Plan: 0 to re-create, 2 to install, 1 to prepare, 0 up to date; issuances: 1 (lab-1)",
        ),
        (
            ["blocked", "not read"],
            None,
            "Plan: 0 to re-create, 0 to install, 0 up to date, 1 blocked, 1 not read",
        ),
    ],
)
def test_the_count_of_a_plan(
    hosts: list[display.Coming], issuers: list[str] | None, line: str
) -> None:
    assert display.plan_count(hosts, issuers) == line


def test_ids_are_shortened_as_far_as_they_stay_unique() -> None:
    assert display.shortened(["aaaa11111111", "aaaa22222222", ""], 4) == {
        "aaaa11111111": "aaaa1",
        "aaaa22222222": "aaaa2",
        "": "",
    }


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "failed on 0 of 0 hosts"),
        (["up to date", "up to date"], "up to date on 2 of 2 hosts"),
        (["up to date", "drifted"], "drifted on 1 of 2 hosts (web-1)"),
        (["drifted", "changes", "changes"], "changes on 2 of 3 hosts (web-1, web-2)"),
        (["changes", "blocked"], "blocked on 1 of 2 hosts (web-1)"),
        (["failed", "blocked"], "failed on 1 of 2 hosts (web-0)"),
    ],
)
def test_the_last_line_has_the_worst_word_of_all_hosts(
    words: list[display.Word], expected: str
) -> None:
    hosts = {f"web-{number}": word for number, word in enumerate(words)}
    assert display.last_line("plan", hosts) == f"plan: {expected}"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "the token is valid for 20 h 00 min (expires_at)"),
        (
            {"token_expiries": (1, CLOCK + 20 * 3600), "token_source": "JWT exp"},
            "the last of 2 tokens is valid for 20 h 00 min (JWT exp)",
        ),
        ({"token_expires": CLOCK}, "the token has expired (expires_at)"),
        ({"token_state": "unknown", "token_expires": None}, "cannot be told"),
        ({"token_state": "damaged", "token_expires": None}, "the token file is damaged"),
        (builders.NO_TOKEN, "there is no token"),
    ],
)
def test_the_state_of_a_token_is_described(changes: dict[str, Any], words: str) -> None:
    assert words in display.token_state(reading(**changes))


@pytest.mark.parametrize(
    ("reference", "tag"),
    [
        ("kis-gateway:d62387ae27a7", "d62387a"),
        ("registry.example:5000/kis:1.4", "1.4"),
        ("registry.example:5000/kis:1.4@sha256:" + "a" * 64, "1.4"),
        ("registry.example:5000/kis@sha256:" + "a" * 64, "a" * 7),
        ("registry.example:5000/kis", ""),
        ("", ""),
    ],
)
def test_the_tag_of_an_image(reference: str, tag: str) -> None:
    assert display.image_tag(reference) == tag


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"bind_address": "::1", "port": 81}, "http://[::1]:81"),
        ({"bind_address": "::"}, "http://[::]:8080, open to the network"),
        ({"network_mode": "host", "container_port": 90}, "port 90 in the host's own network"),
    ],
)
def test_the_address_on_which_it_listens_is_a_url(changes: dict[str, Any], words: str) -> None:
    assert display.listening_address(builders.settings(**changes)).startswith(words)
