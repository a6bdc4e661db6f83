from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from deploy.gateway.rollout import Rollout, Run, make_batches, most_batches

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


def test_the_lock_names_its_holder_in_words_that_need_no_quoting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SUDO_USER", """o'brien"; $(id) 김""")
    run = Run.of_this_process()
    holder = json.loads(run.holder())
    assert holder["by"] == "o_brien_____id__김"
    assert holder["pid"] == os.getpid()


def test_only_a_process_of_this_machine_is_known_to_be_gone() -> None:
    run = Run.of_this_process()
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert run.knows_gone(run.at, ended.pid)
    assert not run.knows_gone("another-machine", ended.pid)
    with subprocess.Popen(["sh", "-c", "read x", "pyinfra"], stdin=subprocess.PIPE) as alive:
        command_line = Path(f"/proc/{alive.pid}/cmdline")
        deadline = time.monotonic() + 5
        while not command_line.read_bytes():  # the kernel shows none for a moment after the exec
            assert time.monotonic() < deadline
        assert not run.knows_gone(run.at, alive.pid)
        alive.terminate()
