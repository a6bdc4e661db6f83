from __future__ import annotations

import json
import time
from datetime import datetime
from typing import Any

import click
import pytest

from kis_gateway_deploy import display
from kis_gateway_deploy.plans import make_plan, plan_without_python
from kis_gateway_deploy.reading import Change, Event, Reading
from kis_gateway_deploy.release import COMPOSE_FILE, Release, make_release
from kis_gateway_deploy.settings import Settings
from kis_gateway_deploy.windows import KOREA, outside_krx
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


def test_the_status_table_of_a_fleet() -> None:
    full = reading(
        token_written=CLOCK - 720,
        token_expires=CLOCK + 21 * 3600 + 240,
        state=UNDER_WAY,
        switching=True,
        history=(EVENT,),
    )
    hosts: dict[str, Reading | str] = {
        "zeta": full,
        "alpha": display.UNREACHABLE,
        "beta": display.UNREADABLE,
    }
    rid = full.current
    assert display.status_table(hosts).splitlines() == [
        "HOST   RELEASE       IMAGE                     HEALTH           RESTARTS  TOKEN AGE  "
        "TOKEN VALID FOR  SWITCH",
        f"zeta   {rid}  registry.example/kis:1.4  running/healthy  0         12 min     "
        "21 h 04 min      up by ops@desk since 2026-11-24 06:39:50",
        "alpha  unreachable",
        "beta   unreadable",
        "",
        "HOST  WHEN                 BY   ACTION  FROM  TO            OUTCOME   SECONDS  ISSUANCES",
        "zeta  2026-11-24 05:40:00  ops  switch  -     5393e3d2b05a  switched  7.2      1",
    ]


FORM_UNKNOWN = {"token_state": "unknown", "token_expires": None, "token_file_says": None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (builders.FRESH, ["no container", "no token"]),
        (builders.NO_TOKEN, ["no token"]),
        ({"token_written": CLOCK - 5, **FORM_UNKNOWN}, ["5 s", "not known"]),
        (
            {"token_written": CLOCK - 5, **FORM_UNKNOWN, "token_state": "damaged"},
            ["5 s", "damaged"],
        ),
        ({"token_written": CLOCK - 5, "token_expires": CLOCK}, ["expired"]),
        (
            {"token_written": 0, "token_expiries": (CLOCK, CLOCK + 20 * 3600)},
            ["  20 h 00 min (2 tokens)  "],
        ),
        ({"client_sees": {"status": 503}}, ["running/healthy, a client gets: HTTP 503"]),
        ({"client_sees": {"error": "timed out"}}, ["running/healthy, a client gets: timed out"]),
        ({"client_sees": None}, ["  running/healthy  "]),
        ({"client_sees": {"status": 204}}, ["  running/healthy  "]),
        ({"containers": (container(health=None, restarts=7),)}, ["  running  ", "  7  "]),
        (
            {"containers": (container(status="exited", image_name="old:1"), container())},
            ["registry.example/kis:1.4", "running/healthy (one of 2)"],
        ),
    ],
)
def test_a_row_of_the_status_table(changes: dict[str, Any], words: list[str]) -> None:
    _, row = display.status_table({"a": reading(**changes)}).splitlines()
    for word in words:
        assert word in row


def test_a_forced_switch_is_marked_in_the_status() -> None:
    forced = EVENT.model_copy(update={"forced": True})
    table = display.status_table({"a": reading(history=(EVENT, forced))})
    assert [line.split()[4:6] for line in table.splitlines()[-2:]] == [
        ["switch", "-"],
        ["switch", "(forced)"],
    ]


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


def test_a_host_without_python_in_the_status() -> None:
    hosts = {"a": display.NO_PYTHON}
    assert display.status_table(hosts).splitlines()[1] == "a     no python3"
    assert json.loads(display.status_json(hosts)) == [{"host": "a", "state": "no python3"}]


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
    [only] = json.loads(display.status_json({"a": reading(client_sees=client_sees)}))
    assert (only["client_sees"], only["health"]) == (shown, "healthy")


def test_the_status_as_json() -> None:
    full = reading(
        token_written=CLOCK - 720,
        token_expires=CLOCK + 9,
        token_source="JWT exp",
        token_expiries=(CLOCK - 5, CLOCK + 9),
        state=UNDER_WAY,
        switching=True,
        history=(EVENT,),
    )
    hosts: dict[str, Reading | str] = {
        "zeta": full,
        "alpha": display.UNREACHABLE,
        "new": reading(**builders.FRESH),
    }
    zeta, alpha, new = json.loads(display.status_json(hosts))
    assert zeta == {
        "host": "zeta",
        "state": "read",
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
    assert new["client_sees"] is None


def diff(current: str, wanted: str) -> list[str]:
    lines = display.compose_diff(current, wanted, "5393e3d2b05a")
    return [plain(line) for line in lines]


def test_the_diff_compares_the_parsed_files() -> None:
    assert diff("a: 1\n", "a: 1\n") == []
    assert diff("a: [1]\nb: 3\n", "a: [2]  # why\nb: 3\n") == [
        "--- docker-compose.yml on the host",
        "+++ docker-compose.yml of 5393e3d2b05a",
        "@@ -1,3 +1,3 @@",
        " a:",
        "-- 1",
        "+- 2",
        " b: 3",
    ]
    [only] = diff("a: 1 # one\n", "a: 1\n")
    assert "differs only in comments or layout" in only
    assert diff("", "a: 1\n")[-1] == "+a: 1"


def environment(text: str) -> str:
    return f"services:\n  kis-gateway:\n    environment:\n{text}"


SECRETS = {
    "KIS_MY_SEC": "s3cr3t",
    "APP_SEC_REAL": "PSabcdefghijklmnopqrstuvwxyz01234567",
    "KIS_RSEC": "/9jA" + "k" * 40 + "+/=",
    "KIS_ACCT_PW": "12345678",
    "DATABASE_URL": "postgres://kim:s3cr3t@db:5432/kis",
    "WEBHOOK": "https://hooks.example/services/T0/B0/s3cr3t",
    "GREETING": "hello",
    "REDIS": "redis://:s3cr3t@10.0.0.1",
    "QUERY": "https://api.example?key=s3cr3t",
    "PIN": "kim:1234",
}


@pytest.mark.parametrize(("name", "value"), SECRETS.items())
def test_a_value_is_hidden_unless_its_form_is_harmless(name: str, value: str) -> None:
    before = f"      {name}: '{value}'\n"
    after = f"      {name}: n3w\n      ADDED: |\n        n3w\n"
    lines = diff(environment(before), environment(after))
    assert lines[-3:] == [
        f"-      {name}: (hidden)",
        f"+      {name}: (changed)",
        "+      ADDED: (hidden)",
    ]
    # An unchanged value is context of a change next to it, and is hidden, too.
    lines = diff(environment(before), environment(before + "      PORT: 8080\n"))
    assert lines[-2:] == [f"       {name}: (hidden)", "+      PORT: 8080"]


@pytest.mark.parametrize(
    "value",
    [
        *("8080", "123456", "true", "/app/tokens/kis_token.json", "127.0.0.1:8080:8080", "1.5"),
        *("https://openapi.koreainvestment.com:9443", "http://10.0.0.1:8080", "./secrets.json"),
    ],
)
def test_a_short_number_a_boolean_a_path_and_an_address_are_shown(value: str) -> None:
    lines = diff(environment(""), environment(f"      KIS_TOKEN: {value}\n"))
    assert lines[-1] == f"+      KIS_TOKEN: {value}"


def test_a_value_whose_name_is_in_plan_show_is_shown() -> None:
    before, after = environment("      GREETING: old\n"), environment("      GREETING: new\n")
    lines = [plain(line) for line in display.compose_diff(before, after, "1", {"GREETING"})]
    assert lines[-2:] == ["-      GREETING: old", "+      GREETING: new"]


def test_the_value_of_a_variable_named_like_a_compose_key_is_hidden() -> None:
    lines = diff("image: kis:1\n", "image: kis:2\n" + environment("      image: s3cr3t\n"))
    assert "+image: kis:2" in lines
    assert "+      image: (hidden)" in lines


def test_the_diff_of_a_file_edited_by_hand_shows_no_secret() -> None:
    before = environment("      - API_KEY=s3cr3t\n      - PORT=1\n      - FLAG\n")
    lines = diff(before, environment("      PORT: '1'\n"))
    assert {"-    - API_KEY=(hidden)", "-    - PORT=1", "-    - FLAG"} <= set(lines)
    lines = diff(before, environment("      - API_KEY=n3w\n      - PORT=1\n      - FLAG\n"))
    assert "+    - API_KEY=(changed)" in lines


@pytest.mark.parametrize(
    "content", ['API_KEY: "s3cr3t\n', "API_KEY=s3cr3t\n", "s3cr3t: 2026-13-45\n"]
)
def test_no_diff_is_shown_for_an_invalid_compose_file(content: str) -> None:
    assert diff(content, "a: 1\n") == [
        f"{COMPOSE_FILE}: what lies on the host is no compose file, so no diff is shown"
    ]


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
        "in order; the gateway runs on"
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
    assert lines[:3] + lines[4:6] == [
        "web-1: blocked (2 changes)",
        f"  - release {new.id}: is not on the host -> the release is put on the host; nothing that "
        "runs is touched",
        f"  - release {old.id} runs, not {new.id} -> the container is re-created",
        "  gateway.env: not in the release any more",
        "  secrets.json: changed",
    ]
    assert "  +      GREETING: (hidden)" in lines
    assert lines[-1] == "  ! in the way: the disk is full"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (builders.FRESH, "no gateway container is there -> the container is re-created"),
        (builders.FRESH, "secrets.json: new"),
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
    hosts: dict[str, Reading | str] = {"web-1": web, "b" * 40: other, "c": display.UNREACHABLE}
    table = display.history_table(hosts)
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
    typical = display.history_table({"@local": web})
    assert max(map(len, typical.splitlines())) <= 100
    first, *_, last = json.loads(display.history_json(hosts))
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
    assert last == {"host": "c", "state": "unreachable"}


def test_a_fleet_without_a_switch_has_no_history() -> None:
    hosts: dict[str, Reading | str] = {"a": reading(), "b": display.UNREADABLE}
    assert display.history_table(hosts) == "b: unreadable\nno switch yet"
    assert json.loads(display.history_json({"a": reading()})) == []


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
