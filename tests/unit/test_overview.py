from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest

from kis_gateway_deploy import display, overview
from kis_gateway_deploy.overview import Found
from kis_gateway_deploy.plans import Plan, make_plan
from kis_gateway_deploy.reading import Change, Event, Reading
from tests.unit import builders
from tests.unit.builders import container, reading

CLOCK = 1795470000
UNDER_WAY = Change(
    generation="0123456789abcdef", by="ops@desk", began=CLOCK - 10, action="up", phase="begun"
)
EVENT = Event.model_validate(
    {
        "began": (CLOCK - 3600) * 1000 + 123,
        "seconds": 7.25,
        "by": "ops",
        "action": "switch",
        "from": "",
        "to": "5393e3d2b05a",
        "image": "kis:1.4",
        "outcome": "switched",
        "issuances": 1,
    }
)
ID = builders.release().id[:7]


@pytest.fixture(autouse=True)
def in_korea(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Seoul")
    time.tzset()


def found(host: Reading, **settings: Any) -> Found:
    its = builders.settings(**settings)
    return Found(its, host, make_plan(its, builders.release(), host))


def table(hosts: Mapping[str, Reading | str]) -> list[str]:
    return overview.status_table(
        {name: it if isinstance(it, str) else found(it) for name, it in hosts.items()}
    ).splitlines()


def test_a_token_that_is_in_no_file_is_elsewhere() -> None:
    of_memory = found(reading(**builders.NO_TOKEN), token_store="external")
    assert "elsewhere" in overview.status_table({"trade-1": of_memory})


def test_the_status_table_of_a_fleet_fits_80_columns() -> None:
    accepted = {"token_probe": {"is_accepted": True}, "token_expires": CLOCK + 23 * 3600 + 240}
    refused = {"token_probe": {"is_accepted": False, "code": "EGW00123"}}
    hosts: dict[str, Reading | str] = {
        "trade-1": reading(**accepted),
        "trade-2": reading(**refused),
        "trade-3": display.UNREACHABLE,
        "trade-4": display.NO_PYTHON,
    }
    lines = table(hosts)
    assert lines == [
        "HOST    RELEASE       KIS  ADDRESS        RESTARTS TOKEN            STATE",
        f"trade-1 1.4 ({ID}) real 127.0.0.1:8080 0        23 h, accepted   up to date",
        f"trade-2 1.4 ({ID}) real 127.0.0.1:8080 0        refused EGW00123 drifted",
        "trade-3 unreachable",
        "trade-4 no python3",
        "trade-2: KIS does not accept this token any more (EGW00123): run `make renew`",
    ]
    assert max(map(len, lines[:-1])) <= 80


FORM_UNKNOWN = {"token_state": "unknown", "token_expires": None, "token_file_says": None}


@pytest.mark.parametrize(
    ("changes", "cells"),
    [
        (builders.FRESH, ["-", "real", "127.0.0.1:8080", "-", "none", "not installed"]),
        (builders.NO_TOKEN, ["0", "none", "drifted"]),
        (FORM_UNKNOWN, ["not known", "up to date"]),
        (FORM_UNKNOWN | {"token_state": "damaged"}, ["damaged", "drifted"]),
        ({"token_expires": CLOCK}, ["expired", "drifted"]),
        ({"token_expires": CLOCK + 300}, ["5 min", "up to date"]),
        ({"token_expiries": (CLOCK, CLOCK + 20 * 3600)}, ["20 h (2)"]),
        ({"token_probe": {"is_accepted": None, "said": "HTTP 500"}}, ["20 h", "up to date"]),
        ({"client_sees": {"status": 503}}, ["failed"]),
        ({"client_sees": {"error": "timed out"}}, ["failed"]),
        ({"client_sees": None}, ["up to date"]),
        ({"containers": (container(restarts=7),)}, ["7", "20 h", "drifted"]),
        ({"containers": (container(status="exited"),)}, ["failed"]),
        ({"containers": (container(status="exited"), container())}, ["20 h"]),
        ({"containers": ()}, [f"{builders.release().id[:7]}", "-", "failed"]),
        ({"current": "0123456789ab"}, ["1.4 (0123456)", "drifted"]),
        ({"podman": True}, ["blocked"]),
        ({"switching": True, "state": UNDER_WAY}, ["switching"]),
    ],
)
def test_a_row_of_the_status_table(changes: dict[str, Any], cells: list[str]) -> None:
    row = table({"a": reading(**changes)})[1]
    position = 0
    for cell in cells:
        assert f" {cell}" in row[position:], row
        position = row.index(f" {cell}", position) + len(cell)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"client_sees": {"status": 503}}, "a: a client gets: HTTP 503"),
        ({"switching": True, "state": UNDER_WAY}, "a: up by ops@desk since 2026-11-24 06:39:50"),
        ({"containers": ()}, "a: no gateway container is there"),
        ({"current": "0123456789ab"}, f"a: release 0123456789ab runs, not {builders.release().id}"),
    ],
)
def test_the_cause_is_below_the_table(changes: dict[str, Any], cause: str) -> None:
    assert table({"a": reading(**changes)})[2:] == [cause]


def test_ids_that_begin_alike_are_shown_in_full() -> None:
    hosts = {"a": reading(current="0123456789ab"), "b": reading(current="0123456789ac")}
    assert all("(0123456789a" in row for row in table(hosts)[1:3])


URL = "https://openapi{}.koreainvestment.com:{}"
REAL, PAPER = URL.format("", 9443), URL.format("vts", 29443)


@pytest.mark.parametrize(
    ("changes", "account"),
    [
        ({"app_key_field": "kis-r-app-key"}, "real"),
        ({"app_key_field": "kis-v-app-key"}, "paper"),
        ({"app_key_field": "KIS_PAPER_APP_KEY"}, "paper"),
        ({"app_key_field": "app-key"}, ""),
        ({"app_key_field": "kis-v-app-key", "environment": {"URL": REAL}}, "real"),
        ({"app_key_field": "kis-r-app-key", "environment": {"URL": PAPER}}, "paper"),
        ({"app_key_field": "app-key", "environment": {"A": REAL, "B": PAPER}}, ""),
        ({"app_key_field": "app-key", "environment": {"A": f"https://x.{REAL[8:]}"}}, ""),
        ({"app_key_field": "kis-r-app-key", "simulator": True}, ""),
    ],
)
def test_real_or_paper(changes: dict[str, Any], account: str) -> None:
    its = builders.settings().model_copy(update=changes)
    assert overview.account(Found(its, reading(), Plan())) == account
    # The settings may be of another kind of trading than the release that runs.
    assert overview.account(Found(its, reading(), Plan(), is_desired=False)) == ""


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, "127.0.0.1:8080"),
        ({"bind_address": "::1"}, "[::1]:8080"),
        ({"network_mode": "host", "container_port": 90}, "*:90"),
    ],
)
def test_the_address(changes: dict[str, Any], shown: str) -> None:
    nothing_runs = reading(containers=())
    assert overview.address(Found(builders.settings(**changes), nothing_runs, Plan())) == shown


def test_the_address_is_that_of_what_runs() -> None:
    changed = builders.settings(port=8090)
    assert overview.address(Found(changed, reading(), Plan())) == "127.0.0.1:8080"


def objects(hosts: Mapping[str, Reading | str]) -> list[dict[str, Any]]:
    shown = {name: it if isinstance(it, str) else found(it) for name, it in hosts.items()}
    document = json.loads(overview.status_json(shown))
    assert list(document) == ["version", "hosts"]
    assert document["version"] == 1
    return list(document["hosts"])


@pytest.mark.parametrize(
    ("client_sees", "shown"),
    [
        ({"status": 503}, "HTTP 503"),
        ({"error": "connection refused"}, "connection refused"),
        (None, None),
    ],
)
def test_the_answer_to_a_client_as_json(
    client_sees: dict[str, Any] | None, shown: str | None
) -> None:
    [only] = objects({"a": reading(client_sees=client_sees)})
    assert (only["client_sees"], only["health"]) == (shown, "healthy")


def test_the_status_as_json() -> None:
    full = reading(
        token_written=CLOCK - 720,
        token_expires=CLOCK + 9,
        token_source="JWT exp",
        token_expiries=(CLOCK - 5, CLOCK + 9),
        token_probe={"is_accepted": False, "code": "EGW00123", "said": "HTTP 500"},
        state=UNDER_WAY,
        switching=True,
        history=(EVENT,),
    )
    hosts: dict[str, Reading | str] = {
        "zeta": full,
        "alpha": display.UNREACHABLE,
        "new": reading(**builders.FRESH),
    }
    zeta, alpha, new = objects(hosts)
    assert zeta == {
        "host": "zeta",
        "state": "read",
        "deployment": "switching",
        "account": "real",
        "address": "127.0.0.1:8080",
        "clock": CLOCK,
        "release": full.current,
        "containers": 1,
        "image": "registry.example/kis:1.4",
        "status": "running",
        "health": "healthy",
        "client_sees": "HTTP 200",
        "restarts": 0,
        "token_written": CLOCK - 720,
        "token_expires": CLOCK + 9,
        "token_source": "JWT exp",
        "token_expiries": [CLOCK - 5, CLOCK + 9],
        "token_probe": {"is_accepted": False, "code": "EGW00123", "said": "HTTP 500"},
        "switching": True,
        "changed": {
            "generation": "0123456789abcdef",
            "by": "ops@desk",
            "began": CLOCK - 10,
            "action": "up",
            "to": None,
            "phase": "begun",
            "outcome": None,
        },
        "history": [
            {
                "began": CLOCK - 3600,
                "seconds": 7.25,
                "by": "ops",
                "action": "switch",
                "from": "",
                "to": "5393e3d2b05a",
                "image": "kis:1.4",
                "outcome": "switched",
                "issuances": 1,
                "forced": False,
            }
        ],
    }
    assert alpha == {"host": "alpha", "state": "unreachable"}
    assert list(new) == list(zeta)
    assert (new["containers"], new["image"], new["changed"], new["history"]) == (0, None, None, [])
    assert (new["client_sees"], new["token_probe"]) == (None, None)


def event(began: int, **changes: Any) -> Event:
    return EVENT.model_copy(update={"began": began * 1000, **changes})


def test_the_history_of_a_fleet_is_in_the_order_of_time() -> None:
    old, new = "a33c7e12e6d4", "5393e3d2b05a"
    back = {"action": "rollback", "from_": new, "to": old, "by": "kim@desk", "seconds": 36.4}
    web = reading(
        history=(event(CLOCK - 600, from_=old, by="kim@desk"), event(CLOCK - 60, **back)),
        release_images={new: "registry.example:5000/kis:1.5@sha256:" + "0" * 64},
    )
    other = reading(history=(event(CLOCK - 300, by="a" * 90, outcome="restored", action="up"),))
    hosts: dict[str, Found | str] = {
        "web-1": found(web),
        "b" * 40: found(other),
        "c": display.UNREACHABLE,
    }
    table = overview.history_table(hosts)
    assert table.splitlines() == [
        "WHEN              HOST              ACTION    FROM          TO            TAG  "
        "BY                OUTCOME   SEC  NEW",
        "2026-11-24 06:30  web-1             switch    a33c7e12e6d4  5393e3d2b05a  1.5  "
        "kim@desk          switched  7    1",
        "2026-11-24 06:35  bbbbbbbbbbbbbbb…  up        -             5393e3d2b05a  -    "
        "aaaaaaaaaaaaaaa…  restored  7    1",
        "2026-11-24 06:39  web-1             rollback  5393e3d2b05a  a33c7e12e6d4  -    "
        "kim@desk          switched  36   1",
        "c: unreachable",
        "NEW: issuances, new tokens that were seen",
    ]
    typical = overview.history_table({"@local": found(web)})
    assert max(map(len, typical.splitlines())) <= 100
    document = json.loads(overview.history_json(hosts))
    assert document["version"] == 1
    states = [(each["host"], each["state"]) for each in document["hosts"]]
    assert states == [("web-1", "read"), ("b" * 40, "read"), ("c", "unreachable")]
    first = document["switches"][0]
    assert first == {
        "host": "web-1",
        "began": CLOCK - 600,
        "seconds": 7.25,
        "by": "kim@desk",
        "action": "switch",
        "from": old,
        "to": new,
        "image": "registry.example:5000/kis:1.5@sha256:" + "0" * 64,
        "outcome": "switched",
        "forced": False,
        "issuances": 1,
    }


def test_a_fleet_without_a_switch_has_no_history() -> None:
    hosts: dict[str, Found | str] = {"a": found(reading()), "b": display.UNREADABLE}
    assert overview.history_table(hosts) == "b: unreadable\nno switch yet"
    assert overview.history_table({"b": display.UNREADABLE}) == "b: unreadable"
    assert json.loads(overview.history_json({"a": found(reading())}))["switches"] == []


def test_a_forced_switch_is_marked_in_the_history() -> None:
    forced = EVENT.model_copy(update={"forced": True})
    shown = overview.history_table({"a": found(reading(history=(EVENT, forced)))})
    assert [line.split()[3:5] for line in shown.splitlines()[1:3]] == [
        ["switch", "-"],
        ["switch", "(forced)"],
    ]
