"""How a script travels: on standard input, before its own input."""

from __future__ import annotations

import subprocess
from typing import Any

from kis_gateway_deploy.remote import Script


def parts(script: Script) -> list[Any]:
    return list(script.connector_arguments["_stdin"])


def run(script: Script) -> tuple[int, bytes]:
    content = b"".join(
        part.encode() if part.endswith("\n") else f"{part}\n".encode() for part in parts(script)
    )
    done = subprocess.run(["sh", "-c", Script.COMMAND], input=content, capture_output=True)
    return done.returncode, done.stdout


def test_a_script_reads_what_comes_behind_it() -> None:
    script = "set -- 'a b' \"it's\"\nprintf '%s|' \"$@\"\ncat <<END\n토큰 \\\\ $1\nEND\ncat\nexit 3"
    assert run(Script(script, "input")) == (3, "a b|it's|토큰 \\ a b\ninput\n".encode())


def test_a_long_script_is_read_to_its_end() -> None:
    script = "\n".join(f"a{number}=$(echo {number})" for number in range(1000)) + "\necho $a999"
    assert run(Script(script)) == (0, b"999\n")


def test_the_command_passes_every_login_shell_and_shows_nothing() -> None:
    script = Script("echo s3cret", "s3cret-input")
    assert not set("\\\n!'") & set(Script.COMMAND)
    assert "s3cret" not in repr(parts(script)[0])
