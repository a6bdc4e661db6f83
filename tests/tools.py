"""What tests of all kinds run programs with, and how they wait."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

BIN = Path(sys.executable).parent
# As `make verify` starts it, in a clone.
VERIFY = (
    *(BIN / "python", "-m", "pytest", "-p", "kis_gateway_deploy.verify.plugin"),
    *("--pyargs", "kis_gateway_deploy.verify"),
)
"""Where the programs of this environment lie."""


def machine_lock() -> FileLock:
    """For what only one process of the tests may do on this machine, such as installing Docker."""
    return FileLock(Path(tempfile.gettempdir()) / "kis-gateway-tests.lock", timeout=900)


@dataclass
class Outcome:
    """How a run ended, and all that the operator saw."""

    status: int
    output: str

    def changes(self) -> int:
        """How many operations changed something, by pyinfra's own account."""
        total = re.search(r"Grand total\s+\d+\s+(\d+|-)\s+(\d+|-)\s+(\d+|-)", self.output)
        assert total, self.output
        return 0 if total[1] == "-" else int(total[1])

    def assert_refused(self, *words: str) -> None:
        """It ended as a refusal has to, and these words were on the screen."""
        assert self.status == 1, self.output
        assert "Traceback" not in self.output
        for word in words:
            assert word in self.output, self.output


def command(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end; its exit status is the caller's to look at."""
    return subprocess.run(arguments, capture_output=True, text=True, timeout=300, **options)


def docker(*arguments: str) -> str:
    """The output of a docker command that must succeed."""
    result = command("docker", *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)


def get(url: str, **headers: str) -> tuple[int, str]:
    """Status and body, whatever the status; 0 and why if nobody answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as got:
            return got.status, got.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
