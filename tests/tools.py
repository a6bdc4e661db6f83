"""Helpers of all tests: they run programs, wait for conditions and find free ports."""

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
"""The directory with the programs of this environment."""

# The command that `make verify` runs in a clone.
VERIFY = (BIN / "python", "-m", "pytest", "--pyargs", "kis_gateway_deploy.verify")


def machine_lock() -> FileLock:
    """A lock for work that only one test process may do on this machine: installing Docker."""
    return FileLock(Path(tempfile.gettempdir()) / "kis-gateway-tests.lock", timeout=900)


@dataclass
class Outcome:
    """Exit status and complete output of a run."""

    status: int
    output: str

    def changes(self) -> int:
        """The number of operations that changed something, as pyinfra reports it."""
        total = re.search(r"Grand total\s+\d+\s+(\d+|-)\s+(\d+|-)\s+(\d+|-)", self.output)
        assert total, self.output
        return 0 if total[1] == "-" else int(total[1])

    def assert_refused(self, *words: str) -> None:
        """The run was refused without a traceback, and its output has these words."""
        assert self.status == 1, self.output
        assert "Traceback" not in self.output
        for word in words:
            assert word in self.output, self.output


def command(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a program until it ends; the caller checks the exit status."""
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
    """Status and body of any HTTP answer; 0 and the reason if there is no answer."""
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
