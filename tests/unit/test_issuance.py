from __future__ import annotations

import random
from typing import Any

import pytest

from kis_gateway_deploy.issuance import (
    WORTH_KEEPING,
    Gateway,
    distribute,
    external_gateway,
    gateway_of,
    wait_before,
)
from kis_gateway_deploy.rollout import Rollout
from tests.unit.builders import NO_TOKEN, container, reading

KEY, OTHER = "0a1b2c3d4e5f", "f5e4d3c2b1a0"
CLOCK = reading().clock
DAY = 24 * 3600
HAS = Gateway(KEY, in_file=DAY)
NONE = Gateway(KEY)


def seen(**changes: Any) -> Gateway:
    """The gateway of a host without a token, with these changes."""
    return gateway_of(reading(**NO_TOKEN | changes), KEY)


TOKEN = {
    "token_state": "token",
    "token_expires": CLOCK + DAY,
    "token_file_says": CLOCK + DAY,
    "token_written": CLOCK - 100,
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, NONE),
        (TOKEN, Gateway(KEY, DAY, asked=100)),
        (TOKEN | {"token_key": KEY}, Gateway(KEY, DAY, asked=100)),
        (TOKEN | {"token_key": OTHER}, NONE),
        (
            TOKEN | {"token_key": OTHER, "parked": {KEY: CLOCK + 7, OTHER: CLOCK + 9}},
            Gateway(KEY, in_file=7),
        ),
        ({"attempted": {KEY: CLOCK - 5, OTHER: CLOCK - 1}}, Gateway(KEY, asked=5)),
        ({"refused": CLOCK - 5}, Gateway(KEY, asked=5, loops=True)),
        ({"refused": CLOCK + 5}, Gateway(KEY, loops=True)),  # its clock was set back
        (TOKEN | {"refused": CLOCK - 5}, Gateway(KEY, DAY, asked=5)),
    ],
)
def test_the_gateway_of_a_reading(changes: dict[str, Any], expected: Gateway) -> None:
    found = seen(**changes)
    compared = ("key_fingerprint", "adopted", "asked", "loops")
    assert [getattr(found, name) for name in compared] == [
        getattr(expected, name) for name in compared
    ]
    assert max(found.in_file, 0) == expected.in_file


def test_a_file_of_unknown_form_is_trusted_but_not_shared() -> None:
    found = seen(token_state="unknown")
    assert found.has_token
    result = distribute(["a", "b"], {"a": found, "b": NONE})
    assert (result.issuers, result.donor_of) == (("b",), {})


@pytest.mark.parametrize(("left", "loops"), [(599, True), (601, False)])
def test_a_gateway_loops_only_if_its_token_is_unusable(left: int, loops: bool) -> None:
    assert seen(**(TOKEN | {"token_expires": CLOCK + left, "refused": CLOCK - 5})).loops is loops


def test_a_token_in_a_container_counts_even_if_the_container_is_stopped() -> None:
    old = {"adopted_id": "old", "adopted_token_expires": CLOCK + DAY}
    assert seen(containers=(container(id="old"),), **old).adopted == DAY
    assert seen(containers=(container(id="old", status="exited"),), **old).adopted == DAY


MOUNTED = {"token_mount": "other", "mounted_token_expires": CLOCK + DAY}


def test_a_token_in_the_mounted_directory_counts_like_that_of_an_adopted_container() -> None:
    found = seen(**MOUNTED)
    assert found == Gateway(KEY, in_file=found.in_file, adopted=DAY)
    assert found.has_token
    result = distribute(["a", "b"], {"a": NONE, "b": found})
    assert (result.issuers, result.donor_of, result.first) == ((), {"a": "b"}, ("b",))


@pytest.mark.parametrize("left", [-DAY, 2 * DAY])
def test_the_token_outside_the_directory_that_expires_last_counts(left: int) -> None:
    old = {"adopted_id": "old", "adopted_token_expires": CLOCK + left}
    found = seen(**MOUNTED, **old, containers=(container(id="old"),))
    assert found.adopted == max(left, DAY)


@pytest.mark.parametrize(
    ("releases", "counts"),
    [
        ({}, True),
        ({reading().current: KEY, "0123456789ab": OTHER}, True),
        ({reading().current: OTHER, "0123456789ab": KEY}, False),
    ],
    ids=["nothing is known", "its release", "a release of another key"],
)
def test_a_mounted_token_has_the_app_key_of_the_running_release(
    releases: dict[str, str], counts: bool
) -> None:
    found = seen(**MOUNTED, releases={name: {"key": key} for name, key in releases.items()})
    assert (found.adopted, found.has_token) == ((DAY, True) if counts else (0, False))


def test_a_gateway_with_a_usable_mounted_token_does_not_loop() -> None:
    assert seen(refused=CLOCK - 5).loops
    assert not seen(**MOUNTED, refused=CLOCK - 5).loops


@pytest.mark.parametrize(
    ("changes", "is_doubtful"),
    [
        ({}, False),
        (TOKEN, False),
        (TOKEN | {"token_file_says": CLOCK + WORTH_KEEPING + 1}, False),
        (TOKEN | {"token_file_says": CLOCK + WORTH_KEEPING}, True),
        (TOKEN | {"token_file_says": CLOCK - DAY}, True),
        (TOKEN | {"token_file_says": None}, True),
        (TOKEN | {"token_file_says": None, "token_key": KEY}, True),
        (TOKEN | {"token_file_says": None, "token_key": OTHER}, False),
        ({"token_state": "unknown"}, True),
        ({"token_state": "unknown", "token_file_says": CLOCK + DAY}, False),
    ],
)
def test_a_token_is_doubtful_unless_its_file_shows_that_it_is_valid(
    changes: dict[str, Any], is_doubtful: bool
) -> None:
    assert seen(**changes).is_doubtful is is_doubtful


DOUBTFUL = Gateway(KEY, in_file=DAY, is_doubtful=True)


@pytest.mark.parametrize("share", [True, False])
def test_no_host_waits_for_a_gateway_with_a_doubtful_token(share: bool) -> None:
    result = distribute(["a", "b"], {"a": DOUBTFUL, "b": HAS}, share=share)
    assert (result.issuers, result.donor_of, result.first) == ((), {}, ())


def test_a_doubtful_token_is_shared() -> None:
    result = distribute(["a", "b"], {"a": NONE, "b": DOUBTFUL})
    assert (result.issuers, result.donor_of) == ((), {"a": "b"})


def test_a_doubtful_token_that_expires_soon_does_not_count() -> None:
    ending = Gateway(KEY, in_file=WORTH_KEEPING, is_doubtful=True)
    assert distribute(["a"], {"a": ending}).issuers == ("a",)


def planned(gateways: dict[str, Gateway], share: bool = True, now: float = 0) -> Rollout:
    return Rollout.plan(list(gateways), ["100%"], gateways, share, now)


def test_the_budget_is_one_if_a_gateway_may_ask() -> None:
    rollout = planned({"a": DOUBTFUL, "b": HAS, "c": NONE})
    assert [rollout.budget(name) for name in "abc"] == [1, 0, 0]
    assert rollout.count == "issuances: 0 (budget 1)"
    assert planned({"a": LAZY}).budget("a") == 1


@pytest.mark.parametrize(
    ("left", "has"), [(WORTH_KEEPING, False), (WORTH_KEEPING + 1, True), (-1, False)]
)
def test_a_token_that_is_replaced_soon_does_not_count(left: int, has: bool) -> None:
    assert Gateway(KEY, in_file=left).has_token is has


def test_one_host_asks_and_the_others_get_its_token() -> None:
    result = distribute(["a", "b", "c"], {"a": NONE, "b": NONE, "c": NONE})
    assert (result.issuers, result.first) == (("a",), ("a",))
    assert result.donor_of == {"b": "a", "c": "a"}


def test_an_existing_token_is_shared_at_once_even_from_a_host_that_is_not_switched() -> None:
    result = distribute(["a", "b"], {"a": NONE, "b": NONE, "c": HAS, "d": Gateway(OTHER, DAY)})
    assert (result.issuers, result.first) == ((), ())
    assert result.donor_of == {"a": "c", "b": "c"}


def test_the_token_that_expires_last_is_shared() -> None:
    gateways = {"a": NONE, "b": Gateway(KEY, DAY - 9), "c": HAS}
    assert distribute(["a"], gateways).donor_of == {"a": "c"}


def test_a_token_in_a_container_is_shared_after_its_adoption() -> None:
    adopting = Gateway(KEY, adopted=DAY)
    result = distribute(["a", "b"], {"a": NONE, "b": adopting})
    assert (result.issuers, result.donor_of, result.first) == ((), {"a": "b"}, ("b",))
    assert distribute(["a", "b"], {"a": adopting, "b": adopting}).first == ()


LAZY = Gateway(KEY, asks_at_start=False)


def test_no_host_waits_for_a_gateway_that_asks_at_its_first_request() -> None:
    result = distribute(["a", "b"], {"a": LAZY, "b": NONE})
    assert (result.issuers, result.donor_of, result.first) == (("b",), {"a": "b"}, ("b",))
    result = distribute(["a"], {"a": LAZY})
    assert (result.issuers, result.donor_of) == ((), {})
    assert distribute(["a"], {"a": LAZY, "b": HAS}).donor_of == {"a": "b"}
    result = distribute(["a", "b"], {"a": LAZY, "b": NONE}, share=False)
    assert (result.issuers, result.donor_of) == (("b",), {})


def test_one_token_is_requested_per_key() -> None:
    other = Gateway(OTHER)
    result = distribute(["a", "b", "c", "d"], {"a": NONE, "b": other, "c": NONE, "d": other})
    assert result.issuers == ("a", "b")
    assert result.donor_of == {"c": "a", "d": "b"}


def test_a_file_with_several_expired_tokens_gets_no_donated_one() -> None:
    """It would never be replaced: its gateway has to ask itself."""
    several = Gateway(KEY, has_several=True)
    result = distribute(["a", "b"], {"a": several, "b": HAS})
    assert (result.issuers, result.donor_of) == (("a",), {})


def test_a_gateway_without_a_file_shares_with_nobody_and_may_ask() -> None:
    external = external_gateway(reading(**NO_TOKEN), KEY)
    result = distribute(["a", "b", "c"], {"a": external, "b": NONE, "c": external})
    assert (result.issuers, result.donor_of) == (("b",), {})
    rollout = planned({"a": external, "b": HAS})
    assert [rollout.budget(name) for name in "ab"] == [1, 0]


def test_a_token_file_goes_only_to_gateways_with_a_file_of_this_name() -> None:
    """Its bytes are copied: another gateway might not read them."""
    other_file = Gateway(KEY, file="token.dat")
    result = distribute(["a", "b"], {"a": HAS, "b": other_file})
    assert (result.issuers, result.donor_of) == (("b",), {})
    result = distribute(["a", "b", "c"], {"a": NONE, "b": other_file, "c": other_file})
    assert (result.issuers, result.donor_of) == (("a", "b"), {"c": "b"})


def test_without_sharing_each_host_asks_for_itself() -> None:
    result = distribute(["a", "b", "c"], {"a": NONE, "b": NONE, "c": HAS}, share=False)
    assert (result.issuers, result.donor_of, result.first) == (("a", "b"), {}, ("a", "b"))


def test_any_fleet_is_switched_completely_in_order_and_within_the_budget() -> None:
    chance = random.Random(4)  # noqa: S311 - the same fleets each time
    kinds = [NONE, HAS, LAZY, Gateway(KEY, adopted=DAY), Gateway(OTHER), Gateway(OTHER, DAY)]
    kinds += [DOUBTFUL, Gateway(OTHER, adopted=DAY, is_doubtful=True)]
    for _ in range(4000):
        names = [f"h{number}" for number in range(chance.randint(1, 9))]
        gateways = {name: chance.choice(kinds) for name in names}
        members = [name for name in names if chance.random() < 0.8]
        sizes: list[int | str] = chance.choice([[1, "25%", "100%"], ["100%"], [2], [1]])
        share = chance.random() < 0.7
        rollout = Rollout.plan(members, sizes, gateways, share, now=0)
        issuers = rollout.issuances.issuers
        assert sorted(rollout.members) == sorted(members)
        assert all(rollout.batches)
        assert all([name] in rollout.batches for name in issuers)
        turn = {name: i for i, batch in enumerate(rollout.batches) for name in batch}
        for name in members:
            has_one = gateways[name].has_token and not gateways[name].is_doubtful
            assert rollout.budget(name) == (
                0 if has_one or name in rollout.issuances.donor_of else 1
            )
        for key in (KEY, OTHER):
            issuers_of_key = [name for name in issuers if gateways[name].key_fingerprint == key]
            members_without = [
                name
                for name in members
                if gateways[name].key_fingerprint == key
                and gateways[name].asks_at_start
                and not gateways[name].has_token
            ]
            has_one = any(g.key_fingerprint == key and g.has_token for g in gateways.values())
            if not share:
                assert issuers_of_key == members_without
            elif not any(g.key_fingerprint == key and g.in_file for g in gateways.values()):
                assert len(issuers_of_key) <= 1
            if (
                share
                and has_one
                and not any(gateways[n].adopted and n not in members for n in gateways)
            ):
                assert issuers_of_key == []
        for name, donor in rollout.issuances.donor_of.items():
            assert name not in issuers
            assert gateways[donor].in_file or turn[donor] < turn[name]


@pytest.mark.parametrize(
    ("ago", "seconds"), [(None, 0), (0, 61), (0.5, 61), (30, 31), (61, 0), (1e6, 0)]
)
def test_kis_is_not_asked_again_within_a_minute(ago: float | None, seconds: int) -> None:
    assert wait_before(ago) == seconds


def test_a_rollout_remembers_the_last_request_for_each_key() -> None:
    gateways = {"a": Gateway(KEY, asked=20), "b": Gateway(KEY, asked=50), "c": Gateway(OTHER)}
    rollout = planned(gateways, share=False, now=1000)
    assert [rollout.wait_for_kis(name, 1000) for name in "abc"] == [41, 41, 0]
    rollout.has_asked("a", 1010)
    assert [rollout.wait_for_kis(name, 1020) for name in "abc"] == [51, 51, 0]


def test_the_count_includes_all_switches_of_all_hosts() -> None:
    rollout = planned({"a": NONE, "b": NONE})
    assert rollout.count == "issuances: 0 (budget 1)"
    rollout.has_issued("a", 1)
    rollout.has_issued("b", 0)
    rollout.has_issued("a", 1)
    assert rollout.count == "issuances: 2 (budget 1)"
    assert [rollout.budget(name) for name in "ab"] == [1, 0]
