"""The health gate as a table: an observation, the history before it, and the expected verdict.

Rows marked "as before" have the verdicts of the earlier shell gate on the cases of the lab; the
other rows test new rules.
"""

from __future__ import annotations

from typing import Any

import pytest

from kis_gateway_deploy.host.gate import History, Observation, Rules, Verdict, judge

RULES = Rules(
    min_healthy=10,
    deadline=120,
    asks_http=True,
    token_at_start=True,
    engine_counts=False,
    has_token=True,
)
GOOD = {"answer": "good", "heard": "GET /health: HTTP 200"}
BAD = {"answer": "bad", "heard": "GET /health: HTTP 503"}
ANSWERED: dict[str, Any] = {"good_since": 2, "start": "s1"}
EXITED: dict[str, Any] = {"status": "exited", "exit_code": 7}
ASKS: dict[str, Any] = {"has_token": False}
NO_HTTP: dict[str, Any] = {"asks_http": False}
CHECKED: dict[str, Any] = {"engine_counts": True}
LAZY: dict[str, Any] = {"token_at_start": False}
PROBES: dict[str, Any] = {"probes": True}
REFUSED: dict[str, Any] = {"probe": "EGW00123"}

Row = tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], str, str]

# Name of the row; changes to observation, history and rules; the verdict; words of its reason.
ROWS: list[Row] = [
    # Before the first good answer, only the deadline counts.
    ("not asked yet", {}, {}, {}, "wait", "not probed yet"),
    ("bad answer at first", BAD, {}, {}, "wait", "HTTP 503"),
    ("bad answers for a long time", BAD | {"t": 119}, {}, {}, "wait", "HTTP 503"),
    ("never healthy, as before", BAD | {"t": 120}, {}, {}, "fail", "not healthy within 120 s"),
    ("reports the last answer", BAD | {"t": 120}, {}, {}, "fail", "HTTP 503"),
    ("never answers", {"t": 120}, {}, {}, "fail", "not healthy within 120 s"),
    ("short deadline", BAD | {"t": 8}, {}, {"deadline": 8}, "fail", "not healthy within 8 s"),
    ("first good answer", GOOD | {"t": 2}, {}, {}, "wait", "HTTP 200"),
    ("no minimum time, as before", GOOD | {"t": 2}, {}, {"min_healthy": 0}, "pass", ""),
    # The gateway must answer for the complete minimum healthy time.
    ("good for a while", GOOD | {"t": 11.9}, ANSWERED, {}, "wait", ""),
    ("good for long enough, as before", GOOD | {"t": 12}, ANSWERED, {}, "pass", "HTTP 200"),
    ("not asked at the end", {"t": 12}, ANSWERED, {}, "wait", "the gateway answers"),
    ("good beyond the deadline", GOOD | {"t": 130}, {"good_since": 119}, {}, "pass", ""),
    # After a good answer, one bad answer fails.
    ("bad after good", BAD | {"t": 3}, ANSWERED, {}, "fail", "a bad answer after a good one"),
    ("bad at the end", BAD | {"t": 12}, ANSWERED, {}, "fail", "HTTP 503"),
    (
        "no answer after good",
        {"answer": "bad", "heard": "timed out", "t": 3},
        ANSWERED,
        {},
        "fail",
        "timed out",
    ),
    (
        "listens only inside the container",
        {"answer": "bad", "heard": "connection refused", "t": 120},
        {},
        {},
        "fail",
        "connection refused",
    ),
    # KIS accepts the token, or not.
    ("not probed yet", GOOD | {"t": 12}, ANSWERED, PROBES, "wait", "its token is not probed yet"),
    ("probed", GOOD | {"t": 12, "probe": "done"}, ANSWERED, PROBES, "pass", "HTTP 200"),
    ("refused", GOOD | {"t": 12} | REFUSED, ANSWERED, PROBES, "wait", "EGW00123"),
    (
        "refused for long enough",
        GOOD | {"t": 22} | REFUSED,
        ANSWERED | {"refused_since": 12},
        PROBES,
        "fail",
        "KIS does not accept its token (EGW00123): run `make renew`",
    ),
    (
        "renewed by the gateway itself",
        GOOD | {"t": 22, "probe": "done"},
        ANSWERED | {"refused_since": 12},
        PROBES,
        "pass",
        "",
    ),
    # The gateway exits.
    ("exits at once: started again", EXITED, {}, {}, "start", "status 7"),
    ("exits twice", EXITED, {"starts": 2}, {}, "start", "status 7"),
    ("exits three times, as before", EXITED, {"starts": 3}, {}, "fail", "a crash loop"),
    ("exits after it answered", EXITED | {"t": 4}, ANSWERED, {}, "fail", "after it had answered"),
    ("exits with 0", {"status": "exited", "t": 4}, ANSWERED, {}, "fail", "status 0"),
    ("exits while it asks, as before", EXITED, {}, ASKS, "fail", "status 7"),
    ("removed by somebody", {"status": "gone"}, {}, {}, "fail", "removed by something else"),
    ("removed after it answered", {"status": "gone"}, ANSWERED, {}, "fail", "removed"),
    # KIS refuses a token (EGW00133): the gateway is started again after a minute.
    ("refused and exits, as before", EXITED | {"refused": True}, {}, ASKS, "start", "EGW00133"),
    ("refused with a token", EXITED | {"refused": True}, {}, {}, "start", "EGW00133"),
    (
        "refused, form unknown",
        EXITED | {"refused": True, "token": "unknown"},
        {},
        {},
        "start",
        "EGW00133",
    ),
    ("refused late", EXITED | {"refused": True, "t": 200}, {}, ASKS, "start", "EGW00133"),
    (
        "refused for too long",
        EXITED | {"refused": True, "t": 240},
        {},
        ASKS,
        "fail",
        "keeps refusing it a token (EGW00133)",
    ),
    ("refused and stays up", BAD | {"refused": True, "t": 120}, {}, ASKS, "wait", ""),
    ("refused and stays up, later", BAD | {"t": 299}, {"extended": True}, ASKS, "wait", ""),
    (
        "refused and never healthy, as before",
        BAD | {"t": 300},
        {"extended": True},
        ASKS,
        "fail",
        "not healthy within 300 s",
    ),
    (
        "refused, answers, has no token yet",
        GOOD | {"refused": True, "token": "missing", "t": 125},
        {"good_since": 1},
        ASKS,
        "wait",
        "there is no token file",
    ),
    (
        "its token came after 65 s",
        GOOD | {"t": 70},
        {"good_since": 1, "extended": True},
        ASKS,
        "pass",
        "",
    ),
    ("refused after it answered", EXITED | {"refused": True}, ANSWERED, {}, "fail", "answered"),
    # KIS refuses the credentials.
    ("wrong app key", {"credentials": "EGW00103"}, {}, {}, "fail", "EGW00103"),
    ("wrong secret", EXITED | {"credentials": "EGW00105"}, {}, ASKS, "fail", "EGW00105"),
    ("wrong key, answers", GOOD | {"credentials": "EGW00103"}, ANSWERED, {}, "fail", "refuses the"),
    # The token file: only a certain defect fails.
    (
        "no token file, as before",
        GOOD | {"token": "missing", "t": 120},
        ANSWERED,
        {},
        "fail",
        "there is no token file",
    ),
    (
        "all tokens have expired, as before",
        GOOD | {"token": "expired", "t": 120},
        ANSWERED,
        {},
        "fail",
        "every token in its token file has expired",
    ),
    ("empty token file", GOOD | {"token": "damaged", "t": 120}, ANSWERED, {}, "fail", "damaged"),
    ("no token file yet", GOOD | {"token": "missing", "t": 12}, ANSWERED, {}, "wait", "no token"),
    ("the token comes late", GOOD | {"t": 40}, ANSWERED, {}, "pass", ""),
    ("form unknown", GOOD | {"token": "unknown", "t": 12}, ANSWERED, {}, "pass", ""),
    ("asks later, no file", GOOD | {"token": "missing", "t": 12}, ANSWERED, LAZY, "pass", ""),
    ("asks later, expired", GOOD | {"token": "expired", "t": 12}, ANSWERED, LAZY, "pass", ""),
    # The gateway replaced its token.
    (
        "replaced one valid for long",
        GOOD | {"replaced": 8 * 3600, "t": 12},
        ANSWERED,
        {},
        "fail",
        "it replaced one that was still valid for 480 min",
    ),
    ("replaced one about to end", GOOD | {"replaced": 1200, "t": 12}, ANSWERED, {}, "pass", ""),
    ("replaced one that had ended", GOOD | {"replaced": -60, "t": 12}, ANSWERED, {}, "pass", ""),
    ("replaced before it answers", {"replaced": 1201}, {}, {}, "fail", "did not need"),
    # The gateway cannot read its token file.
    ("exits on an unknown file", EXITED | {"token": "unknown"}, {}, {}, "aside", "status 7"),
    ("exits on an expired file", EXITED | {"token": "expired"}, {}, ASKS, "aside", "status 7"),
    (
        "exits on an expired file again",
        EXITED | {"token": "expired"},
        {"aside": True},
        ASKS,
        "fail",
        "status 7",
    ),
    (
        "exits without the file, too",
        EXITED | {"token": "missing"},
        {"aside": True, "starts": 2},
        ASKS,
        "fail",
        "status 7",
    ),
    (
        "an unknown file came again",
        EXITED | {"token": "unknown"},
        {"aside": True, "starts": 2},
        ASKS,
        "fail",
        "status 7",
    ),
    (
        "exits on it after an answer",
        EXITED | {"token": "unknown"},
        ANSWERED,
        {},
        "fail",
        "answered",
    ),
    # Something else restarts the gateway.
    ("restarted before it answers", {"start": "s2"}, {"start": "s1"}, {}, "wait", ""),
    (
        "restarted again and again",
        {"start": "s4"},
        {"start": "s3", "starts": 3},
        {},
        "fail",
        "a crash loop",
    ),
    (
        "restarted after it answered",
        GOOD | {"start": "s2"},
        ANSWERED,
        {},
        "fail",
        "restarted after",
    ),
    # The engine's own health check counts only if the operator set it.
    ("unhealthy but answers", GOOD | {"health": "unhealthy", "t": 12}, ANSWERED, {}, "pass", ""),
    (
        "unhealthy, check set",
        GOOD | {"health": "unhealthy"},
        {},
        CHECKED,
        "fail",
        "gateway_healthch",
    ),
    (
        "starting, check set",
        GOOD | {"health": "starting", "t": 12},
        ANSWERED,
        CHECKED,
        "wait",
        "start",
    ),
    ("healthy, check set", GOOD | {"health": "healthy", "t": 12}, ANSWERED, CHECKED, "pass", ""),
    (
        "starting for too long",
        GOOD | {"health": "starting", "t": 120},
        ANSWERED,
        CHECKED,
        "fail",
        "still says starting",
    ),
    # A program without HTTP only has to keep running.
    ("runs", {"t": 1}, {}, NO_HTTP, "wait", "the container is running"),
    ("ran for long enough", {"t": 12}, {"good_since": 1}, NO_HTTP, "pass", ""),
    ("without HTTP, exits", EXITED, {"good_since": 1}, NO_HTTP, "fail", "status 7"),
    (
        "without HTTP, no token",
        {"token": "missing", "t": 120},
        {"good_since": 1},
        NO_HTTP,
        "fail",
        "no token file",
    ),
    # The engine does not answer.
    ("engine restarts", {"status": "unknown"}, {}, {}, "wait", "engine does not answer"),
    ("engine stays down", {"status": "unknown", "t": 120}, {}, {}, "fail", "engine does not"),
]


@pytest.mark.parametrize(
    ("seen", "history", "rules", "kind", "words"),
    [row[1:] for row in ROWS],
    ids=[row[0] for row in ROWS],
)
def test_each_row_of_the_table(
    seen: dict[str, Any], history: dict[str, Any], rules: dict[str, Any], kind: str, words: str
) -> None:
    given = {"t": 1, "start": "s1"} | seen
    verdict, _ = judge(Observation(**given), History(**history), RULES._replace(**rules))
    assert verdict.kind == kind
    assert words in verdict.reason


def test_the_table_has_at_least_60_different_rows() -> None:
    assert len({row[0] for row in ROWS}) == len(ROWS) >= 60


def run(*seen: dict[str, Any], rules: Rules = RULES) -> list[Verdict]:
    """The verdicts on consecutive observations, one per second unless they set `t`."""
    history, verdicts = History(), []
    for number, each in enumerate(seen):
        observation = Observation(**{"t": number, "start": "s1"} | each)
        verdict, history = judge(observation, history, rules)
        verdicts.append(verdict)
    return verdicts


def test_a_gateway_that_answers_for_the_minimum_time_passes() -> None:
    kinds = [verdict.kind for verdict in run(BAD, BAD, *[GOOD] * 11)]
    assert kinds == ["wait"] * 12 + ["pass"]


def test_a_gateway_that_answers_every_other_second_fails_at_the_second_answer() -> None:
    assert [verdict.kind for verdict in run(GOOD, BAD)] == ["wait", "fail"]


def test_a_gateway_that_dies_after_eight_seconds_fails_at_once() -> None:
    last = run(*[GOOD] * 8, EXITED)[-1]
    assert (last.kind, "after it had answered" in last.reason) == ("fail", True)


def test_a_crash_loop_ends_with_the_third_exit() -> None:
    kinds = [verdict.kind for verdict in run(EXITED, EXITED, EXITED)]
    assert kinds == ["start", "start", "fail"]


def test_a_refused_gateway_is_started_each_minute_for_three_extra_minutes() -> None:
    refused = EXITED | {"refused": True}
    rules = RULES._replace(has_token=False)
    verdicts = run(*[refused | {"t": t} for t in (1, 63, 125, 187, 249)], rules=rules)
    assert [verdict.kind for verdict in verdicts] == ["start"] * 4 + ["fail"]
    assert {verdict.wait for verdict in verdicts[:4]} == {61}


def test_a_file_of_unknown_form_is_set_aside_once() -> None:
    unknown = EXITED | {"token": "unknown"}
    kinds = [verdict.kind for verdict in run(unknown, unknown, rules=RULES._replace(**ASKS))]
    assert kinds == ["aside", "fail"]
