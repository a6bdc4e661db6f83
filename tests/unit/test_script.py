"""A script is sent on standard input."""

from __future__ import annotations

import subprocess

from kis_gateway_deploy.remote import Script


def run(script: Script) -> tuple[int, bytes]:
    content = b"".join(part.encode() for part in script.connector_arguments["_stdin"])
    done = subprocess.run(["sh", "-c", Script.COMMAND], input=content, capture_output=True)
    return done.returncode, done.stdout


def test_a_script_arrives_unchanged() -> None:
    script = "set -- 'a b' \"it's\"\nprintf '%s|' \"$@\"\ncat <<END\n토큰 \\\\ $1\nEND\nexit 3"
    assert run(Script(script)) == (3, "a b|it's|토큰 \\ a b\n".encode())


def test_a_long_script_is_read_completely() -> None:
    script = "\n".join(f"a{number}=$(echo {number})" for number in range(1000)) + "\necho $a999"
    assert run(Script(script)) == (0, b"999\n")


def test_every_login_shell_passes_the_command_and_no_secret_is_shown() -> None:
    script = Script("echo s3cret")
    assert not set("\\\n!'") & set(Script.COMMAND)
    assert "s3cret" not in repr(script.connector_arguments["_stdin"])
