"""What a run knows about its hosts; the tests prepare the readings and need no host."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from pyinfra.api.config import Config
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State
from pyinfra.context import ctx_state

from kis_gateway_deploy.plans import Plan, Step
from kis_gateway_deploy.refusals import NEEDS_ROOT
from kis_gateway_deploy.runs import words
from kis_gateway_deploy.session import NotAllReadError, Refused, Session, Target
from kis_gateway_deploy.windows import KOREA, closes_at, opens_at
from tests.unit import builders
from tests.unit.builders import NO_TOKEN, host_data, reading

OTHER = {"gateway_labels": {"other": "yes"}}
OTHER_KEY = {"gateway_app_key_field": "kis-v-app-key"}
CHANGE = {
    "generation": "0123456789abcdef",
    "by": "kim@desk",
    "began": 1795470000,
    "action": "up",
    "phase": "ended",
}


def session(**hosts: dict[str, Any] | None) -> Session:
    """A session of hosts with valid settings and these changes; None: without our settings."""
    inventory = [
        (name, {"ssh_user": "ops"} if changes is None else host_data(**changes))
        for name, changes in hosts.items()
    ]
    return Session(State(Inventory((inventory, {})), Config()))


def put(run: Session, name: str, plan: Plan, **changes: Any) -> Target:
    """Records a target as if its host had been read."""
    settings, release = run.desired[name]
    found = reading(**changes)
    run.targets[name] = Target(name, settings, release, release.id, found, plan)
    return run.targets[name]


SWITCH = Plan((Step("switch", "a change"),))


def test_a_host_without_our_settings_takes_no_part() -> None:
    run = session(a={}, database=None)
    assert run.names == ["a"]
    assert run.takes_part(run.inventory.get_host("a"))
    assert not run.takes_part(run.inventory.get_host("database"))


def test_a_wrong_setting_of_any_host_refuses_the_run() -> None:
    with pytest.raises(Refused, match="b: gateway_port"):
        session(a={}, b={"gateway_port": "x"})


def test_each_state_has_its_own_session() -> None:
    first, second = (State(Inventory(([("a", host_data())], {})), Config()) for _ in range(2))
    with ctx_state.use(first):
        of_first = Session.current()
        assert Session.current() is of_first
    with ctx_state.use(second):
        assert Session.current() is not of_first


def test_hosts_outside_of_the_limit_take_no_part() -> None:
    run = session(a={}, b={}, c={})
    run.state.limit_hosts = [run.inventory.get_host("c"), run.inventory.get_host("a")]
    assert run.names == ["a", "c"]  # in the inventory's order


def test_a_rollout_before_all_hosts_are_read_is_an_error() -> None:
    run = session(a={}, b={})
    put(run, "a", SWITCH)
    with pytest.raises(NotAllReadError, match="b"):
        _ = run.rollout
    put(run, "b", Plan())
    assert run.rollout.batches == [["a"]]


def test_the_rollout_does_not_wait_for_a_failed_host() -> None:
    run = session(a={}, b={})
    put(run, "a", SWITCH)
    run.state.failed_hosts.add(run.inventory.get_host("b"))
    assert run.rollout.batches == [["a"]]
    assert run.dropped_out() == {"b"}


def test_all_hosts_are_left_alone_if_one_is_refused() -> None:
    run = session(a={}, b={})
    put(run, "a", SWITCH)
    put(run, "b", Plan(refusals=["the disk is full"]))
    assert run.why_untouched("b") == ["the disk is full"]
    assert run.why_untouched("a") == ["not touched, because of b (see there)"]


def test_batches_have_the_hosts_that_need_a_switch_in_order() -> None:
    run = session(a={}, b={}, c={}, d={})
    for name in "dcba":
        put(run, name, Plan() if name == "b" else SWITCH)
    assert run.rollout.batches == [["a"], ["c"], ["d"]]


def test_a_host_without_a_token_gets_the_token_of_another_host() -> None:
    run = session(a={}, b={})
    put(run, "a", SWITCH, **NO_TOKEN)
    put(run, "b", Plan())
    assert run.rollout.issuances.donor_of == {"a": "b"}
    assert run.rollout.issuances.issuers == ()


def test_the_generation_is_from_the_reading_until_this_run_changes_the_host() -> None:
    run = session(a={})
    put(run, "a", SWITCH)
    assert run.seen("a") is None
    put(run, "a", SWITCH, state=CHANGE)
    assert run.seen("a") == CHANGE["generation"]
    run.rollout.generations["a"] = "f" * 16
    assert run.seen("a") == "f" * 16


def test_the_key_is_that_of_the_release_to_run() -> None:
    run = session(a={})
    target = put(run, "a", SWITCH)
    assert target.key_fingerprint == target.release.key_fingerprint
    older = put(run, "a", SWITCH, releases={target.release_id: {"key": "f5e4d3c2b1a0"}})
    assert older.key_fingerprint == "f5e4d3c2b1a0"


def test_an_older_release_keeps_its_token_in_its_own_way() -> None:
    run = session(a={"gateway_token_file": "new.json", "gateway_tokens_expected": 2})
    old = "0a1b2c3d4e5f"
    stored = {"key": "f5e4d3c2b1a0", "token_file": "old.json", "token_at_start": False}
    target = put(run, "a", SWITCH, releases={old: stored})
    assert target.reading
    now = target.gateway(target.reading)
    assert (now.file, now.asks_at_start) == ("new.json", True)
    then = replace(target, release_id=old).gateway(target.reading)
    assert (then.file, then.asks_at_start) == ("old.json", False)
    assert then.key_fingerprint == "f5e4d3c2b1a0"


def test_a_release_that_cannot_be_made_refuses_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("the template asks for something that nobody defines")

    monkeypatch.setattr("kis_gateway_deploy.session.make_release", fail)
    with pytest.raises(Refused, match="the release cannot be made: the template"):
        session(a={})


def test_the_builders_match_the_settings_of_a_session() -> None:
    run = session(a={})
    assert run.desired["a"][0] == builders.settings()


def limited(**changes: Any) -> Session:
    """Two hosts with one app key; the run is limited to the first, which has no token."""
    run = session(a=changes, b=changes)
    run.state.limit_hosts = [run.inventory.get_host("a")]
    put(run, "a", SWITCH, **NO_TOKEN)
    return run


def test_a_host_outside_the_limit_that_may_have_the_token_refuses_the_run() -> None:
    [problem] = limited().why_untouched("a")
    assert "no host within the limit has a token of this app key, and b may have one" in problem
    assert "rollout_share_token = False" in problem


def test_a_host_with_a_token_needs_no_host_outside_the_limit() -> None:
    run = limited()
    put(run, "a", SWITCH)
    assert run.why_untouched("a") == []


def test_hosts_that_share_no_token_need_no_host_outside_the_limit() -> None:
    assert limited(rollout_share_token=False).why_untouched("a") == []


def test_hosts_of_another_app_key_outside_the_limit_do_not_matter() -> None:
    run = session(a={}, b={"gateway_app_key_field": "kis-v-app-key"})
    run.state.limit_hosts = [run.inventory.get_host("a")]
    put(run, "a", SWITCH, **NO_TOKEN)
    assert run.why_untouched("a") == []


def test_a_renewal_costs_one_issuance_for_each_app_key() -> None:
    run = session(a={}, b={}, c=OTHER_KEY)
    run.verb = "renew"
    for name in run.names:
        put(run, name, SWITCH)
    assert run.rollout.issuances.issuers == ("a", "c")
    assert run.rollout.issuances.donor_of == {"b": "a"}
    assert run.why_untouched("a") == []


def test_a_renewal_that_would_end_the_token_of_other_hosts_is_refused() -> None:
    run = session(a={}, b={}, c=OTHER_KEY)
    run.verb = "renew"
    run.state.limit_hosts = [run.inventory.get_host("a")]
    put(run, "a", SWITCH)
    [why] = run.why_untouched("a")
    assert "a new token would end the token of b" in why
    alone = session(a={}, c=OTHER_KEY)
    alone.verb = "renew"
    alone.state.limit_hosts = [alone.inventory.get_host("c")]
    put(alone, "c", SWITCH)
    assert alone.why_untouched("c") == []


def test_a_renewal_is_of_the_key_that_runs_not_of_the_inventorys() -> None:
    """The app key of `a` was changed in the inventory, and is not deployed."""
    run = session(a=OTHER_KEY, b={})
    run.verb = "renew"
    run.state.limit_hosts = [run.inventory.get_host("a")]
    old, key_of_b = "0a1b2c3d4e5f", run.desired["b"][1].key_fingerprint
    target = put(run, "a", SWITCH, releases={old: {"key": key_of_b}}, current=old)
    run.targets["a"] = replace(target, release_id=old)
    [why] = run.why_untouched("a")
    assert "a new token would end the token of b" in why


def test_a_host_that_is_read_again_is_planned_again() -> None:
    """A host that gets python3 first has nothing to switch until it is read again."""
    run = session(a={})
    put(run, "a", Plan((Step("bootstrap", "python3 is missing"),)))
    assert run.rollout.batches == []
    run._note(put(run, "a", SWITCH))
    assert run.rollout.batches == [["a"]]


WITHOUT_ROOT = {"uid": 1000, "clock": 1795470000, "architecture": "x86_64", "disk_free_kb": 0}


@pytest.mark.parametrize(
    "plan_for",
    [
        Session.read,
        partial(Session.plan_to_run, release_id=None),
        partial(Session.plan_to_run, release_id=""),
        Session.plan_to_renew,
        Session.plan_to_remove,
    ],
)
def test_a_host_that_is_read_without_root_counts_as_not_read(
    plan_for: Callable[[Session, Host], Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = json.dumps({"result": WITHOUT_ROOT})
    monkeypatch.setattr("kis_gateway_deploy.session.ask", lambda *_, **__: answer)
    run = session(a={"gateway_image_source": "host"})
    with ctx_state.use(run.state):
        target = plan_for(run, run.inventory.get_host("a"))
    assert target.reading is None
    assert target.plan.refusals == [NEEDS_ROOT]
    assert words(run) == {"a": "failed"}


def test_a_second_verb_in_one_run_is_refused() -> None:
    run = session(a={}, b={})
    run.begin("up", "a")
    run.begin("up", "b")
    with pytest.raises(Refused, match=r"up\(\) and then restart\(\) in one run"):
        run.begin("restart", "a")


def test_a_host_that_got_python_late_is_still_refused_by_the_limit() -> None:
    run = session(a={}, outside={})
    run.state.limit_hosts = [run.inventory.get_host("a")]
    settings, release = run.desired["a"]
    without = Target("a", settings, release, release.id, None, Plan(), has_python=False)
    run.targets["a"] = without
    assert run.why_untouched("a") == []  # nothing is known of it
    put(run, "a", SWITCH, **NO_TOKEN)
    run._rollout = None
    assert "no host within the limit has a token" in run.late_refusal("a")


def window(opens: int, closes: int) -> dict[str, Any]:
    """A window that opens and closes so many hours from now."""
    now = datetime.now(KOREA)
    begin, end = (now + timedelta(hours=hours) for hours in (opens, closes))
    return {"rollout_window": [f"{begin:%a %H:%M}-{end:%H:%M}"]}


OPEN, CLOSED = (-1, 1), (2, 3)


@pytest.mark.parametrize("verb", ["up", "restart", "rollback", "down"])
def test_outside_of_the_window_every_host_with_a_step_is_refused(verb: str) -> None:
    run = session(a=window(*CLOSED), b=window(*CLOSED))
    run.verb = verb
    put(run, "a", Plan((Step("release", "is not on the host"),), refusals=["the disk is full"]))
    put(run, "b", SWITCH)
    full, closed = run.why_untouched("a")
    assert full == "the disk is full"
    assert run.why_untouched("b") == [closed]
    opens = opens_at(run.window, datetime.now(KOREA))
    assert f"the window is closed until {opens:%a %Y-%m-%d %H:%M} Korean time" in closed
    assert "FORCE=1" in closed


@pytest.mark.parametrize("verb", ["plan", "drift", "status"])
def test_a_verb_that_reads_is_free(verb: str) -> None:
    run = session(a=window(*CLOSED))
    run.verb = verb
    put(run, "a", SWITCH)
    assert run.why_untouched("a") == []
    assert run.closed_window()


def test_within_the_window_and_on_an_up_to_date_host_nothing_is_refused() -> None:
    run = session(a=window(*OPEN))
    put(run, "a", SWITCH)
    assert (run.why_untouched("a"), run.closed_window(), run.stop_reason()) == ([], "", "")
    run = session(a=window(*CLOSED))
    put(run, "a", Plan(findings=["the container restarted once"]))
    assert run.why_untouched("a") == []


@pytest.mark.parametrize(
    ("hours", "force", "is_refused", "is_forced"),
    [
        (CLOSED, 1, False, True),
        (CLOSED, 0, True, False),
        (CLOSED, "yes", True, False),
        (OPEN, 1, False, False),
        (OPEN, 0, False, False),
        (None, 1, False, False),
    ],
)
def test_a_run_is_forced_only_outside_of_the_window(
    hours: tuple[int, int] | None, force: object, is_refused: bool, is_forced: bool
) -> None:
    run = session(a=(window(*hours) if hours else {}) | {"force": force})
    put(run, "a", SWITCH)
    assert (bool(run.why_untouched("a")), run.is_forced_now) == (is_refused, is_forced)


def test_a_window_that_has_closed_stops_the_rollout_unless_it_is_forced() -> None:
    for force in (0, 1):
        run = session(a=window(-3, -1) | {"force": force})
        run.decided_at = datetime.now(KOREA) - timedelta(hours=2)  # it was open then
        closed = closes_at(run.window, run.decided_at)
        words = f"the window closed at {closed:%a %Y-%m-%d %H:%M} Korean time"
        assert run.stop_reason().startswith(words) if not force else run.stop_reason() == ""
        run.interrupted = "SIGTERM"
        assert run.stop_reason() == "interrupted (SIGTERM)"


@pytest.mark.parametrize(
    ("verb", "plan", "interrupted", "has_failed", "word"),
    [
        ("up", SWITCH, "", False, "changes"),
        ("up", SWITCH, "SIGINT", False, "failed"),
        ("up", Plan(), "SIGINT", False, "up to date"),
        ("drift", SWITCH, "", True, "drifted"),
        ("plan", Plan(findings=["a"]), "", False, "drifted"),
        ("plan", Plan(refusals=["a"]), "", True, "blocked"),
        ("status", SWITCH, "", False, "read"),
        ("status", SWITCH, "", True, "failed"),
        ("up", SWITCH, "", True, "failed"),
    ],
)
def test_the_word_of_a_host(
    verb: str, plan: Plan, interrupted: str, has_failed: bool, word: str
) -> None:
    run = session(a={})
    run.verb, run.interrupted = verb, interrupted
    put(run, "a", plan)
    if has_failed:
        run.state.failed_hosts.add(run.inventory.get_host("a"))
    assert words(run) == {"a": word}
