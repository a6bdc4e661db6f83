from __future__ import annotations

import pytest

from kis_gateway_deploy.rollout import Rollout, author, make_batches, most_batches

HOSTS = ["h1", "h2", "h3", "h4", "h5", "h6", "h7", "h8"]


@pytest.mark.parametrize(
    ("count", "sizes", "expected"),
    [
        (8, [1, "25%", "100%"], [1, 2, 5]),
        (4, [1, "25%", "100%"], [1, 1, 2]),
        (2, [1, "25%", "100%"], [1, 1]),
        (1, [1, "25%", "100%"], [1]),
        (0, [1, "25%", "100%"], []),
        (8, [3], [3, 3, 2]),
        (8, ["100%"], [8]),
        (8, ["1%"], [1] * 8),
        (3, ["50%"], [1, 1, 1]),
        (8, [2, 100], [2, 6]),
    ],
)
def test_batches_keep_the_inventorys_order(
    count: int, sizes: list[int | str], expected: list[int]
) -> None:
    batches = make_batches(HOSTS[:count], sizes)
    assert [len(batch) for batch in batches] == expected
    assert [name for batch in batches for name in batch] == HOSTS[:count]


@pytest.mark.parametrize(
    ("hosts", "sizes", "expected"),
    [(4, ["50%"], 3), (8, ["25%"], 7), (8, [1, "25%", "100%"], 3), (1, [1], 1)],
)
def test_fewer_hosts_can_make_more_batches(
    hosts: int, sizes: list[int | str], expected: int
) -> None:
    assert most_batches(hosts, sizes) == expected


def test_a_batch_waits_for_every_host_of_all_batches_before() -> None:
    rollout = Rollout([["canary"], ["a", "b"], ["c"]])
    assert rollout.is_turn_of("canary", 0)
    assert not rollout.is_turn_of("a", 0)
    assert not rollout.is_turn_of("a", 1)
    rollout.switched.append("canary")
    assert rollout.is_turn_of("a", 1)
    rollout.switched.append("a")
    assert not rollout.is_turn_of("c", 2)  # b has recorded nothing: it failed, or was lost
    assert rollout.unfinished == ["b", "c"]
    rollout.switched.append("b")
    assert rollout.is_turn_of("c", 2)
    assert not rollout.is_turn_of("c", 3)


def test_a_history_names_who_deployed_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", """o'brien"; $(id) 김""")
    assert author().startswith("o_brien_____id__김@")
