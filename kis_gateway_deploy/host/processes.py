"""Runs programs with limits on their time and output."""

from __future__ import annotations

import os
import select
import signal
import time

OUTPUT_LIMIT = 64 << 10


def run(
    words: list[str], seconds: float, stdin: int | None = None, apart: bool = False
) -> tuple[int, str]:
    """Runs a program; returns its exit status and the end of its output.

    `words`: the program's path or name and its arguments. `stdin`: a descriptor; None: no input.
    `apart`: a successful program's standard output alone, and more of it.
    """
    out = os.memfd_create("output")
    errors = os.memfd_create("errors") if apart else os.dup(out)
    no_input = os.open("/dev/null", os.O_RDONLY)
    try:
        actions = [
            (os.POSIX_SPAWN_DUP2, no_input if stdin is None else stdin, 0),
            (os.POSIX_SPAWN_DUP2, out, 1),
            (os.POSIX_SPAWN_DUP2, errors, 2),
        ]
        try:
            child = os.posix_spawnp(
                words[0],
                words,
                {**os.environ, "GOGC": "400"},  # short-lived: less garbage collection
                file_actions=actions,
                setsigdef=[signal.SIGPIPE],
            )
        except OSError as error:
            return 127, f"{words[0]}: {error.strerror}"
        status = _wait(child, seconds)
        text = _end_of(out, 64 * OUTPUT_LIMIT) if apart and status == 0 else _end_of(errors)
    finally:
        for each in (no_input, out, errors):
            os.close(each)
    if status is None:
        return 124, f"{text}\n{os.path.basename(words[0])} was stopped after {seconds:g} s".strip()
    return status, text.strip()


def _end_of(file: int, limit: int = OUTPUT_LIMIT) -> str:
    size = os.fstat(file).st_size
    return os.pread(file, limit, max(0, size - limit)).decode("utf-8", "replace")


def _wait(child: int, seconds: float) -> int | None:
    if not wait_for_end(child, seconds):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return None
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])  # negative for a signal


def wait_for_end(process: int, seconds: float) -> bool:
    """Whether a process ends within `seconds`; returns as soon as it does."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    except OSError:  # kernels before 5.3
        return _poll_for_end(process, seconds)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(max(0.0, seconds) * 1000))
    finally:
        os.close(descriptor)


def _poll_for_end(process: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with open(f"/proc/{process}/stat", "rb") as file:
                if file.read().rpartition(b")")[2].split()[0] == b"Z":
                    return True
        except OSError:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
