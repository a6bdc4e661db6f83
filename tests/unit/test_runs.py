"""The next command that a run names, in the words with which it was started."""

from __future__ import annotations

from typing import Any

import pyinfra
import pytest

from kis_gateway_deploy.runs import _command
from tests.unit.test_session import session


@pytest.mark.parametrize(
    ("arguments", "status", "again"),
    [
        ([], "make status", "make rollback RELEASE=0a1b2c3d4e5f"),
        (
            ["-y", "fleet.py", "deploy/rollback.py"],
            "make status INVENTORY=fleet.py",
            "make rollback INVENTORY=fleet.py RELEASE=0a1b2c3d4e5f",
        ),
        (
            ["-y", "fleet.py", "/srv/kis/deploy/rollback.py", "--data", "x=1"],
            "make status INVENTORY=fleet.py",
            "make rollback INVENTORY=fleet.py RELEASE=0a1b2c3d4e5f",
        ),
        (
            ["-y", "my fleet.py", "kis_gateway_deploy.rollback"],
            "pyinfra -y 'my fleet.py' kis_gateway_deploy.status",
            "pyinfra -y --data 'release=\"0a1b2c3d4e5f\"' 'my fleet.py' "
            "kis_gateway_deploy.rollback",
        ),
    ],
)
def test_the_next_command_is_of_this_run(
    arguments: list[str], status: str, again: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyinfra, "is_cli", True)
    monkeypatch.setattr("sys.argv", ["pyinfra", *arguments])
    run = session(a={})
    run.verb, run.release_asked = "rollback", "0a1b2c3d4e5f"
    assert (_command(run, "status"), _command(run, "rollback")) == (status, again)


@pytest.mark.parametrize(
    ("target", "again"),
    [
        ("deploy/up.py", "make deploy INVENTORY=i.py LIMIT=b FORCE=1"),
        (
            "kis_gateway_deploy.up",
            "pyinfra -y --limit b --data force=1 i.py kis_gateway_deploy.up",
        ),
    ],
)
def test_limit_and_force_are_kept(target: str, again: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyinfra, "is_cli", True)
    monkeypatch.setattr("sys.argv", ["pyinfra", "-y", "i.py", target])
    forced: dict[str, Any] = {"force": 1}
    run = session(a=forced, b=forced)
    run.state.limit_hosts = [run.inventory.get_host("b")]
    run.verb = "up"
    assert _command(run, "up") == again
    assert "force" not in _command(run, "status").lower()
