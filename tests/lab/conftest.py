"""Separate labs, with other directories, names and addresses than an operator's lab."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from kis_gateway_deploy.paths import ROOT
from lab.lab import Lab, LabHost
from tests.lab.bench import SEED
from tests.lab.fleet import Fleet
from tests.tools import BIN, Outcome, command, machine_lock

HOSTS = 2
os.environ["FAULTS_SEED"] = str(SEED)  # xdist's workers have the same one

SERVER = """
import http.server, os, signal, sys, threading, time

statuses = os.environ["STATUS"].split()
habits = os.environ.get("HABITS", "").split()

class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(statuses.pop(0) if statuses[1:] else statuses[0]))
        self.end_headers()

def flood():
    while True:
        print("the broken gateway speaks " * 40, flush=True)

print("the broken gateway speaks", flush=True)
if "deaf" in habits:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "loud" in habits:
    threading.Thread(target=flood, daemon=True).start()
time.sleep(float(os.environ.get("STARTS_AFTER", "0")))
if "DIES_AFTER" in os.environ:
    threading.Timer(float(os.environ["DIES_AFTER"]), os._exit, [7]).start()
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Health).serve_forever()
"""


@dataclass
class OwnLab:
    """A lab next to an operator's lab, controlled by the same commands."""

    lab: Lab

    def __call__(self, *arguments: str) -> Outcome:
        """`python -m lab.lab …`"""
        return self.run(sys.executable, "-m", "lab.lab", *arguments)

    def pyinfra(self, deploy: str) -> Outcome:
        return self.run(BIN / "pyinfra", "-y", "inventory/lab.py", deploy)

    def ssh(self, host: LabHost, *words: str) -> Outcome:
        return self.run("ssh", "-F", self.lab.ssh_config, host.name, *words)

    def run(self, *words: str | Path) -> Outcome:
        result = command(*words, cwd=ROOT, env=self.environment)
        return Outcome(result.returncode, result.stdout + result.stderr)

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"KIS_LAB_DIR": str(self.lab.directory)}


@pytest.fixture(scope="module")
def new_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., OwnLab]]:
    """Makes running labs; all are removed after the module, except for the images."""
    made: list[OwnLab] = []

    def make(*arguments: str) -> OwnLab:
        while True:
            lab = OwnLab(Lab(tmp_path_factory.mktemp("lab") / f"test-{secrets.token_hex(3)}"))
            made.append(lab)
            with machine_lock():
                outcome = lab("up", *arguments)
            if "Pool overlaps" not in outcome.output:  # two names may have one network
                assert outcome.status == 0, outcome.output
                return lab

    yield make
    outcomes = [lab("down", "--keep-images") for lab in made]
    assert [outcome.output for outcome in outcomes if outcome.status] == []


@pytest.fixture(scope="module")
def lab(new_lab: Callable[..., OwnLab]) -> OwnLab:
    """The lab that most tests share."""
    return new_lab("--hosts", str(HOSTS))


@pytest.fixture(scope="module")
def deployed(lab: OwnLab) -> OwnLab:
    """The same lab, with the reference gateway on its hosts."""
    outcome = lab.pyinfra("deploy/up.py")
    assert outcome.status == 0, outcome.output
    return lab


@pytest.fixture(scope="module")
def broken(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of an image that answers with each STATUS in turn, or dies after DIES_AFTER s.

    It begins to answer after STARTS_AFTER s.
    Each module defines its own fixture `fleet`.
    """
    context = tmp_path_factory.mktemp("broken")
    (context / "server.py").write_text(SERVER)
    (context / "Dockerfile").write_text(
        f'FROM {fleet.gateway_image}\nCOPY server.py /\nCMD ["python3", "-u", "/server.py"]\n'
    )
    return {
        "gateway_image": "broken",
        "gateway_image_source": "build",
        "gateway_build_context": str(context),
        "gateway_image_archive": None,
    }


# The table of docs/faults.md

FAULTS = ROOT / "docs" / "faults.md"
MARK = "<!-- written by: make faults WRITE=1 -->\n"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The last line of `make faults`; with FAULTS_WRITE, the table of docs/faults.md is written."""
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, ())
    ]
    in_order = sorted(reports, key=lambda report: report.start)
    properties = [dict(report.user_properties) for report in in_order]
    rows = [each["fault"] for each in properties if "fault" in each]
    if not rows:
        return
    survived = f"faults survived: {sum(not row['problem'] for row in rows)} of {len(rows)}"
    terminalreporter.write_line(f"seed: {SEED} (FAULTS_SEED={SEED} repeats the random moments)")
    terminalreporter.write_line(survived)
    if os.environ.get("FAULTS_WRITE"):
        text, mark, _ = FAULTS.read_text().partition(MARK)
        FAULTS.write_text(f"{text}{mark}\n{date.today()}, seed {SEED}, {survived}.\n{table(rows)}")


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown, in groups."""
    lines = []
    for group, some in groupby(rows, lambda row: row["group"]):
        lines += ["", f"### {group[0].upper()}{group[1:]}", ""]
        lines += ["| fault | status | the run says | outage | issuances | survived |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        for row in some:
            says = f"`{row['says']}`" if row["says"] else ""
            why = f"**no**: {row['problem'].splitlines()[0][:200]}" if row["problem"] else "yes"
            cells = [row["name"], row["ended"], says, f"{row['outage']:.1f} s", row["issuances"]]
            lines += ["| " + " | ".join(str(c).replace("|", "\\|") for c in [*cells, why]) + " |"]
    return "\n".join([*lines, ""])
