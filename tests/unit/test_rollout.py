from __future__ import annotations

import pytest

from kis_gateway_deploy.rollout import Rollout, author, make_batches

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


def test_hosts_that_were_not_switched_are_known() -> None:
    rollout = Rollout([["canary"], ["a", "b"]])
    rollout.switched += ["canary", "a"]
    assert rollout.unfinished == ["b"]


def test_a_history_names_who_deployed_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", """o'brien"; $(id) 김""")
    assert author().startswith("o_brien_____id__김@")
