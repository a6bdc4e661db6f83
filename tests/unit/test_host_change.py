"""What goes wrong while a switch goes back is an outcome, too."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kis_gateway_deploy import requests
from kis_gateway_deploy.host import change
from kis_gateway_deploy.host.change import Back, Change
from kis_gateway_deploy.host.switch import _Supervisor
from tests.unit.builders import settings

OLD, NEW = "0a1b2c3d4e5f", "f5e4d3c2b1a0"


@pytest.fixture
def cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Change:
    """A switch that has failed, on a host whose engine does not answer."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.setattr(change, "ENGINE_SECONDS", 0)
    made = settings(app_dir=str(tmp_path / "app"), token_dir=str(tmp_path / "tokens"))
    (tmp_path / "app").mkdir()
    request = requests.switch_request(made, "up", NEW, None, "0123456789abcdef", "kim@desk")
    begun = {"generation": "0123456789abcdef", "action": "up", "from": OLD, "to": NEW}
    more = {"by": "kim@desk", "phase": "begun", "began": 1}
    return Change(request, begun | more, lambda _: None)


@pytest.mark.parametrize(
    "back",
    [
        Back("same", NEW),
        Back("nothing"),
        Back("release", OLD, "sha256:1"),
        Back("adopted", adopted={"id": "c0ffee", "name": "old-gateway", "running": True}),
    ],
)
def test_an_engine_that_stays_down_ends_the_switch_as_failed(cut_off: Change, back: Back) -> None:
    result = cut_off._go_back(back, "not healthy")
    assert result["outcome"] == "failed"
    first, *others = result["why"].splitlines()
    assert first == "not healthy"
    assert any("failed, too: " in line for line in others)
    app_dir = Path(cut_off.app_dir)
    assert json.loads((app_dir / "state.json").read_text())["phase"] == "ended"
    assert json.loads((app_dir / "history.jsonl").read_text())["outcome"] == "failed"


def test_a_full_disk_does_not_end_what_a_switch_says() -> None:
    reading, writing = os.pipe()
    supervisor = _Supervisor.__new__(_Supervisor)  # its constructor replaces this process's output
    supervisor.pipe, supervisor.log = writing, os.open("/dev/full", os.O_WRONLY)
    supervisor.say("restoring")
    assert json.loads(os.read(reading, 100)) == {"say": "restoring"}
    for descriptor in (reading, writing, supervisor.log):
        os.close(descriptor)
