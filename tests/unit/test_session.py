"""What a run knows of its hosts, without a host: readings are put there."""

from __future__ import annotations

from typing import Any

import pytest
from pyinfra.api.config import Config
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State
from pyinfra.context import ctx_state

from kis_gateway_deploy.plans import Plan, Step
from kis_gateway_deploy.session import NotAllReadError, Refused, Session, Target
from tests.unit import builders
from tests.unit.builders import NO_TOKEN, host_data, reading

OTHER = {"gateway_labels": {"other": "yes"}}
CHANGE = {
    "generation": "0123456789abcdef",
    "by": "kim@desk",
    "began": 1795470000,
    "action": "up",
    "phase": "ended",
}


def session(**hosts: dict[str, Any] | None) -> Session:
    """Of hosts with valid settings and these changes; None: a host without any of ours."""
    inventory = [
        (name, {"ssh_user": "ops"} if changes is None else host_data(**changes))
        for name, changes in hosts.items()
    ]
    return Session(State(Inventory((inventory, {})), Config()))


def put(of: Session, name: str, plan: Plan, **changes: Any) -> Target:
    """As if the host had been read."""
    settings, release = of.desired[name]
    found = reading(**changes)
    of.targets[name] = Target(name, settings, release, release.id, found, plan)
    return of.targets[name]


SWITCH = Plan((Step("switch", "a change"),))


def test_a_host_without_any_setting_of_ours_takes_no_part() -> None:
    of = session(a={}, database=None)
    assert of.names == ["a"]
    assert of.takes_part(of.inventory.get_host("a"))
    assert not of.takes_part(of.inventory.get_host("database"))


def test_a_wrong_setting_of_any_host_refuses_the_run() -> None:
    with pytest.raises(Refused, match="b: gateway_port"):
        session(a={}, b={"gateway_port": "x"})


def test_there_is_one_for_each_state() -> None:
    first, second = (State(Inventory(([("a", host_data())], {})), Config()) for _ in range(2))
    with ctx_state.use(first):
        of_first = Session.current()
        assert Session.current() is of_first
    with ctx_state.use(second):
        assert Session.current() is not of_first


def test_hosts_outside_of_the_limit_take_no_part() -> None:
    of = session(a={}, b={}, c={})
    of.state.limit_hosts = [of.inventory.get_host("c"), of.inventory.get_host("a")]
    assert of.names == ["a", "c"]  # in the inventory's order


def test_a_rollout_that_is_asked_for_too_soon_is_an_error() -> None:
    of = session(a={}, b={})
    put(of, "a", SWITCH)
    with pytest.raises(NotAllReadError, match="b"):
        _ = of.rollout
    put(of, "b", Plan())
    assert of.rollout.batches == [["a"]]


def test_a_host_that_failed_is_not_waited_for() -> None:
    of = session(a={}, b={})
    put(of, "a", SWITCH)
    of.state.failed_hosts.add(of.inventory.get_host("b"))
    assert of.rollout.batches == [["a"]]
    assert of.dropped_out() == {"b"}


def test_all_hosts_are_left_alone_if_one_is_refused() -> None:
    of = session(a={}, b={})
    put(of, "a", SWITCH)
    put(of, "b", Plan(refusals=["the disk is full"]))
    assert of.why_untouched("b") == ["the disk is full"]
    assert of.why_untouched("a") == ["not touched, because of b (see there)"]


def test_batches_have_the_hosts_that_need_a_switch_in_order() -> None:
    of = session(a={}, b={}, c={}, d={})
    for name in "dcba":
        put(of, name, Plan() if name == "b" else SWITCH)
    assert of.rollout.batches == [["a"], ["c"], ["d"]]


def test_hosts_without_a_token_get_that_of_another_one() -> None:
    of = session(a={}, b={})
    put(of, "a", SWITCH, **NO_TOKEN)
    put(of, "b", Plan())
    assert of.rollout.issuances.donor_of == {"a": "b"}
    assert of.rollout.issuances.issuers == ()


def test_the_generation_is_that_of_the_reading_until_this_run_has_changed_the_host() -> None:
    of = session(a={})
    put(of, "a", SWITCH)
    assert of.seen("a") is None
    put(of, "a", SWITCH, state=CHANGE)
    assert of.seen("a") == CHANGE["generation"]
    of.rollout.generations["a"] = "f" * 16
    assert of.seen("a") == "f" * 16


def test_the_key_is_that_of_the_release_that_shall_run() -> None:
    of = session(a={})
    target = put(of, "a", SWITCH)
    assert target.key_fingerprint == target.release.key_fingerprint
    older = put(of, "a", SWITCH, releases={target.release_id: "f5e4d3c2b1a0"})
    assert older.key_fingerprint == "f5e4d3c2b1a0"


def test_a_release_that_cannot_be_made_refuses_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("the template asks for something that nobody defines")

    monkeypatch.setattr("kis_gateway_deploy.session.make_release", fail)
    with pytest.raises(Refused, match="the release cannot be made: the template"):
        session(a={})


def test_builders_make_what_a_session_desires() -> None:
    of = session(a={})
    assert of.desired["a"][0] == builders.settings()


def limited(**changes: Any) -> Session:
    """Two hosts of one app key, of which the run is limited to the first, which has no token."""
    of = session(a=changes, b=changes)
    of.state.limit_hosts = [of.inventory.get_host("a")]
    put(of, "a", SWITCH, **NO_TOKEN)
    return of


def test_a_host_beyond_the_limit_that_may_have_the_token_refuses_the_run() -> None:
    [problem] = limited().why_untouched("a")
    assert "no host within the limit has a token of this app key, and b may have one" in problem
    assert "rollout_share_token = False" in problem


def test_a_host_that_has_its_token_needs_none_beyond_the_limit() -> None:
    of = limited()
    put(of, "a", SWITCH)
    assert of.why_untouched("a") == []


def test_hosts_that_share_nothing_need_none_beyond_the_limit() -> None:
    assert limited(rollout_share_token=False).why_untouched("a") == []


def test_hosts_of_another_app_key_are_nobodys_beyond_the_limit() -> None:
    of = session(a={}, b={"gateway_app_key_field": "kis-v-app-key"})
    of.state.limit_hosts = [of.inventory.get_host("a")]
    put(of, "a", SWITCH, **NO_TOKEN)
    assert of.why_untouched("a") == []


def test_a_host_that_is_read_again_is_planned_again() -> None:
    """One that got python3 first has nothing to switch before that."""
    of = session(a={})
    put(of, "a", Plan((Step("bootstrap", "python3 is missing"),)))
    assert of.rollout.batches == []
    of._note(put(of, "a", SWITCH))
    assert of.rollout.batches == [["a"]]
