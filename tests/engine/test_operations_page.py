"""The scripts of docs/operations.md, with a server of this machine in place of Telegram's."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from kis_gateway_deploy.paths import ROOT
from lab.engine import ensure_program
from tests.engine.conftest import Deployment
from tests.tools import Outcome, command, machine_lock

PAGE = (ROOT / "docs/operations.md").read_text("utf-8")
TELL, DRIFT = re.findall("^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    with machine_lock():
        for each in ("jq", "curl"):
            ensure_program(each, each)


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """The texts that the server has got; its address is the last item until it has got one."""
    got: list[str] = []

    class Telegram(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            sent = parse_qs(body)
            assert sent["chat_id"] == ["123456"]
            got.extend(sent["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Telegram)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    got.append(f"http://127.0.0.1:{server.server_address[1]}/")
    yield got
    server.shutdown()


@pytest.fixture
def home(tmp_path: Path, messages: list[str]) -> Path:
    """The home of an operator who has done what the page says."""
    config = re.search(r"^    url = .*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    assert config
    text = re.sub(r'(?<=url = ")[^"]+', messages.pop(), config[0].replace("    ", ""))
    (tmp_path / ".config").mkdir()
    (tmp_path / ".config/kis-telegram.conf").write_text(text)
    # The environment that runs this test is not made again.
    make = f'#!/bin/sh\nexec {shutil.which("make")} --old-file .venv/ready "$@"\n'
    for name, script in (("kis-tell", TELL), ("kis-drift", DRIFT), ("make", make)):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "kis-gateway-deploy").symlink_to(ROOT)
    return tmp_path


def test_a_deploy_and_a_drift_are_told(
    new_deployment: Callable[..., Deployment], home: Path, messages: list[str]
) -> None:
    deployment = new_deployment("page", rollout_after=[str(home / "kis-tell")])
    outcome = deployment.run("up", environment={"HOME": str(home)})
    assert outcome.status == 0, outcome.output
    assert "rollout_after" not in outcome.output
    [text] = messages
    release = (deployment.app_dir / "current").readlink().name
    assert re.match(r"up by \S+: changes, 1 issuances, [\d.]+ s\n", text), text
    assert f"@local: changes, none -> {release}" in text

    def watch() -> list[str]:
        """What the watch tells."""
        messages.clear()
        (home / "fleet.py").write_text(deployment.inventory().read_text())
        state = {"HOME": str(home), "STATE_DIRECTORY": str(home), "PYTHONPATH": str(ROOT)}
        state["PATH"] = f"{home}:{os.environ['PATH']}"
        # As from a timer, not from `make test`, whose flags another make would take over.
        outside = {name: value for name, value in os.environ.items() if name[:4] != "MAKE"}
        result = command(home / "kis-drift", env=outside | state)
        assert result.returncode == 0, Outcome(result.returncode, result.stdout + result.stderr)
        return [each.rstrip() for each in messages]

    [first] = watch()
    assert first.endswith("drift: up to date on 1 of 1 hosts")
    assert watch() == []
    deployment.data["gateway_labels"] = {"changed": "yes"}
    [drifted] = watch()
    assert drifted.endswith("drift: drifted on 1 of 1 hosts (@local)")
    assert watch() == []
