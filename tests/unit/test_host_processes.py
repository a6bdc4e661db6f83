"""Programs that run on a host, and what is known of their output."""

from __future__ import annotations

from kis_gateway_deploy.host.processes import run


def test_the_output_of_a_program_that_was_stopped_is_not_shown() -> None:
    """With `apart`, standard output may hold the operator's resolved environment."""
    script = "echo secret; echo why >&2; sleep 60"
    status, text = run(["sh", "-c", script], 0.3, apart=True)
    assert status == 124
    assert text.split("\n\n") == ["why", "sh was stopped after 0.3 s"]


def test_the_output_of_a_program_that_succeeds_is_apart() -> None:
    assert run(["sh", "-c", "echo out; echo why >&2"], 5, apart=True) == (0, "out")
