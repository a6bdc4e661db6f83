"""The health gate: observations and the verdict on them. Pure.

The gate observes what a client sees. Before the first good answer only the deadline counts; after
it, one bad answer fails the gate. A token file fails it only if it certainly cannot be used.
"""

from __future__ import annotations

from collections import namedtuple

WORTH_KEEPING = 20 * 60
"""Seconds: a token that is valid for longer needs no replacement."""

PATIENCE = 180
"""Seconds by which the deadline is extended, once, if KIS refuses the gateway a token."""

KIS_MINUTE = 61
"""Seconds between two requests for a token: KIS issues one a minute per app key (EGW00133)."""

STARTS = 3
"""How often a container is started that has a token but exits before its first answer."""

HEALTH_HINT = " (gateway_health_path names what is asked)"
NO_FILE = (
    "there is no token file. If the gateway keeps its token in memory only, its issuances cannot "
    "be counted, and each start costs one; gateway_token_at_start = False deploys it"
)

TOO_FEW = "fewer of its tokens are valid than gateway_tokens_expected says"

PROBE_SECONDS = 10
"""For how long KIS may refuse the token of a gateway that answers: it may renew it by itself."""

Rules = namedtuple(
    "Rules",
    "min_healthy deadline asks_http token_at_start engine_counts has_token probes",
    defaults=(False,),
)
"""The parameters of a gate; times in seconds.

`asks_http`: whether HTTP is probed; if not, the container only has to keep running.
`token_at_start`: whether a healthy gateway has a token. `engine_counts`: whether
`gateway_healthcheck` is set. `has_token`: whether the gateway finds a token, so that its start
sends no request to KIS. `probes`: whether `gateway_probe` is set.
"""

Observation = namedtuple(
    "Observation",
    "t status start exit_code health answer heard token replaced refused credentials probe",
    defaults=("running", "", 0, "", "", "", "valid", 0, False, "", ""),
)
"""One observation, `t` seconds after the gate began.

`status`: of the container: `running`, `exited`, `gone`, or `unknown` if the engine does not
answer. `start`: identifies one start of the container. `health`: by the engine: `healthy`,
`starting`, `unhealthy` or empty. `answer`: `good`, `bad`, or empty if not probed; `heard`: the last
answer in words. `token`: `valid`, `few` (some of the expected tokens are valid), `unknown` (form),
`expired`, `damaged` or `missing`. `replaced`: if a token was replaced, the seconds for which it was
still valid. `refused`: whether the log of this start contains KIS's `EGW00133`; `credentials`:
`EGW00103` or `EGW00105`, if it contains that. `probe`: empty if the token was not probed yet,
`done`, or the code with which KIS refuses it.
"""

History = namedtuple(
    "History",
    "good_since start starts extended aside refused_since",
    defaults=(None, "", 1, False, False, None),
)
"""The memory of a gate: when good answers began, the last start observed, the number of starts,
whether the deadline was extended, whether the token file was set aside, since when KIS has refused
the token that is probed."""

Verdict = namedtuple("Verdict", "kind reason wait", defaults=("", 0))
"""`kind`: `wait`, `pass`, `fail`, `start` (start the container again after `wait` seconds) or
`aside` (set the token file aside, then start it again). `reason`: the observation in words."""


def judge(seen: Observation, history: History, rules: Rules) -> tuple[Verdict, History]:
    """The verdict on an observation, and the updated history."""
    if seen.credentials:
        return _fail(
            history,
            f"KIS refuses the app key or its secret ({seen.credentials}): check both, "
            "and whether the key is for real or for paper trading",
        )
    if seen.replaced > WORTH_KEEPING:
        minutes = int(seen.replaced) // 60
        return _fail(
            history,
            "the gateway asked KIS for a token that it did not need: it replaced one that was "
            f"still valid for {minutes} min",
        )
    if seen.status == "gone":
        return _fail(history, "the container was removed by something else")
    if seen.refused:
        history = history._replace(extended=True)
    limit = rules.deadline + (PATIENCE if history.extended else 0)
    if seen.status == "exited":
        return _judge_exit(seen, history, rules, limit)
    if seen.status == "running":
        has_restarted = history.start not in ("", seen.start)
        if has_restarted and history.good_since is not None:
            return _fail(history, "the container restarted after it had answered")
        if has_restarted:
            history = history._replace(starts=history.starts + 1)
            if history.starts > STARTS:
                return _fail(history, f"the container restarted {STARTS} times: a crash loop")
        history = history._replace(start=seen.start)
        verdict, history = _judge_running(seen, history, rules)
    else:
        verdict = Verdict("wait", "the Docker engine does not answer")
    if verdict.kind == "wait" and seen.t >= limit:
        hint = HEALTH_HINT if seen.answer == "bad" else ""
        return _fail(history, f"not healthy within {limit:g} s: {verdict.reason}{hint}")
    return verdict, history


def _fail(history: History, reason: str) -> tuple[Verdict, History]:
    return Verdict("fail", reason), history


def _judge_exit(
    seen: Observation, history: History, rules: Rules, limit: float
) -> tuple[Verdict, History]:
    exited = f"the container exited with status {seen.exit_code}"
    if history.good_since is not None:
        return _fail(history, f"{exited} after it had answered")
    again = history._replace(starts=history.starts + 1, start="")
    if seen.refused:
        if seen.t + KIS_MINUTE > limit:
            return _fail(history, f"{exited}: KIS keeps refusing it a token (EGW00133)")
        return Verdict("start", f"{exited}: KIS refused it a token (EGW00133)", KIS_MINUTE), again
    # A valid token is never set aside on a guess; these are of no use to another gateway.
    if seen.token in ("unknown", "expired") and not history.aside:
        return Verdict("aside", exited), again._replace(aside=True)
    if not rules.has_token:
        return _fail(history, exited)
    if history.starts >= STARTS:
        return _fail(history, f"{exited}, {STARTS} times: a crash loop")
    return Verdict("start", exited), again


def _judge_running(seen: Observation, history: History, rules: Rules) -> tuple[Verdict, History]:
    if rules.engine_counts and seen.health == "unhealthy":
        return _fail(history, "the health check of gateway_healthcheck says unhealthy")
    if not rules.asks_http:
        heard, is_good = "the container is running", True
    else:
        heard = seen.heard or "the container is running, not probed yet"
        is_good = seen.answer == "good"
        if seen.answer == "bad" and history.good_since is not None:
            return _fail(history, f"a client got a bad answer after a good one: {heard}")
        if not seen.answer and history.good_since is not None:
            heard = "the gateway answers"
    if is_good and history.good_since is None:
        history = history._replace(good_since=seen.t)
    if history.good_since is None:
        return Verdict("wait", heard), history
    if rules.token_at_start and seen.token in ("missing", "expired", "damaged", "few"):
        lack = {"missing": NO_FILE, "damaged": "the token file is damaged", "few": TOO_FEW}
        reason = lack.get(seen.token, "every token in its token file has expired")
        return Verdict("wait", f"{heard}, but {reason}"), history
    if rules.engine_counts and seen.health == "starting":
        return Verdict("wait", f"{heard}, but gateway_healthcheck still says starting"), history
    if rules.probes and seen.probe != "done":
        return _judge_probe(seen, history, heard)
    if is_good and seen.t - history.good_since >= rules.min_healthy:
        return Verdict("pass", heard), history
    return Verdict("wait", heard), history


def _judge_probe(seen: Observation, history: History, heard: str) -> tuple[Verdict, History]:
    if not seen.probe:
        return Verdict("wait", f"{heard}, its token is not probed yet"), history
    refused = f"KIS does not accept its token ({seen.probe})"
    since = seen.t if history.refused_since is None else history.refused_since
    history = history._replace(refused_since=since)
    if seen.t - since >= PROBE_SECONDS:
        return _fail(history, f"{refused}: run `make renew`")
    return Verdict("wait", f"{heard}, but {refused}"), history
