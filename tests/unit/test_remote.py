"""Requests to a host: the command, the program, and the frame of the answer."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kis_gateway_deploy import remote, requests
from kis_gateway_deploy.paths import ROOT

HOST = ROOT / "kis_gateway_deploy" / "host"


def run(stdin: remote.Octets, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["/bin/sh", "-c", remote.command()],
        input=stdin.encode(),
        capture_output=True,
        env={"DOCKER_HOST": "unix:///nonexistent", **environment},
        timeout=60,
        check=False,
    )


def test_every_login_shell_passes_the_command_unchanged() -> None:
    """fish interprets a backslash, tcsh a line break and `!`; sudo logs every byte."""
    assert not set("\\\n!") & set(remote.command())
    assert len(remote.command()) < 300


@pytest.mark.parametrize("verb", remote.VERBS)
def test_a_host_gets_the_program_without_its_comments(verb: str) -> None:
    """The removed text changes nothing: the syntax trees are equal except for docstrings."""
    for name in [*remote.VERBS[verb], "main"]:
        source = (HOST / f"{name}.py").read_text()
        sent = remote._packed(source)
        assert len(sent) < len(source)
        assert "  # " not in sent
        assert tree(sent) == tree(source)


def tree(source: str) -> str:
    found = ast.parse(source)
    for node in ast.walk(found):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [s for s in body if not is_docstring(s)]  # type: ignore[attr-defined]
    return ast.dump(found)


def is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def test_a_request_is_answered_in_its_frame() -> None:
    frame, stdin = remote.question("read", requests.machine_request())
    done = run(stdin)
    assert (done.returncode, done.stderr) == (0, b"")
    lines = ["Welcome!", *done.stdout.decode("ascii").splitlines(), "bye"]
    result = json.loads(remote.answer(frame, lines))["result"]
    assert (result["uid"], result["engine"]) == (os.getuid(), "down")


def test_an_error_on_the_host_is_one_line() -> None:
    frame, stdin = remote.question("read", {"token_dir": "/nonexistent"})
    done = run(stdin)
    assert (done.returncode, done.stderr) == (1, b"")
    error = json.loads(remote.answer(frame, done.stdout.decode().splitlines()))["error"]
    assert re.fullmatch(r"KeyError: '\w+' \(line \d+ of \w+\.py\)", error)


def test_the_environment_of_the_host_has_no_effect() -> None:
    _, stdin = remote.question("read", requests.machine_request())
    done = run(stdin, PYTHONPATH="/nonexistent", LC_ALL="ko_KR.EUC-KR", PATH="/nowhere")
    assert done.returncode == 0, done.stderr


def test_a_host_without_python_is_reported(tmp_path: Path) -> None:
    (tmp_path / "echo").symlink_to("/bin/echo")
    path = remote.command().partition(";")[0]
    frame, stdin = remote.question("read", requests.machine_request())
    done = subprocess.run(
        ["/bin/sh", "-c", remote.command().replace(path, f"export PATH={tmp_path}")],
        input=stdin.encode(),
        capture_output=True,
        check=False,
    )
    with pytest.raises(remote.NoPythonError):
        remote.answer(frame, done.stdout.decode().splitlines())


@pytest.mark.parametrize(
    "lines",
    [[], ["Welcome!"], ['{"result": {}}'], ['0123456789abcdef{"result": {}}']],
)
def test_lines_without_the_frame_are_no_answer(lines: list[str]) -> None:
    frame, _ = remote.question("read", requests.machine_request())
    with pytest.raises(remote.RemoteError, match="no answer"):
        remote.answer(frame, lines)


def test_an_answer_has_a_size_limit() -> None:
    with pytest.raises(remote.RemoteError, match="too long"):
        remote.answer("f", ['f{"result": ' + "x" * remote.ANSWER_LIMIT])


@pytest.mark.parametrize("last", ['{"say": "switch: a -> b"}', '{"beat": true}', '{"resu', ""])
def test_a_program_that_was_killed_has_given_no_answer(last: str) -> None:
    with pytest.raises(remote.NoAnswerError):
        remote.answer("f", ['f{"say": "begun"}', f"f{last}"])


def test_the_content_of_standard_input_is_never_shown() -> None:
    octets = remote.Octets(b"s3cret")
    assert "s3cret" not in f"{octets!r} {octets} {[octets]}"


def other_python(version: str, stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    """Runs the program with this Python; the test is skipped if that is missing."""
    environment = os.environ | {"PYENV_VERSION": version, "DOCKER_HOST": "unix:///nonexistent"}
    python = shutil.which(f"python{version}")
    if (
        not python
        or subprocess.run([python, "-V"], env=environment, capture_output=True).returncode
    ):
        pytest.skip(f"python{version} is not on this machine")
    code = remote.command().split("-c ")[1].strip("'")
    return subprocess.run(
        [python, "-I", "-S", "-c", code], input=stdin, env=environment, capture_output=True
    )


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.11", "3.12", "3.13"])
def test_other_python_versions_answer(version: str) -> None:
    frame, stdin = remote.question("read", requests.machine_request())
    done = other_python(version, stdin.encode())
    assert (done.returncode, done.stderr) == (0, b"")
    assert "result" in json.loads(remote.answer(frame, done.stdout.decode().splitlines()))


@pytest.mark.parametrize("version", ["3.6", "3.8"])
def test_a_python_that_is_too_old_is_reported(version: str) -> None:
    done = other_python(version, remote.question("read", requests.machine_request())[1].encode())
    assert done.returncode == 1
    assert b"Python 3.9 or newer is needed" in done.stderr
    assert b"Traceback" not in done.stderr


def test_the_host_program_imports_only_itself_and_the_standard_library() -> None:
    allowed = set(sys.stdlib_module_names)
    for path in HOST.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed, path
            if isinstance(node, ast.ImportFrom):
                assert node.level == 1 or str(node.module).split(".")[0] in allowed, path


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"t": 1, "say": "waiting"}', "waiting"),
        ('{"say": 5}', "5"),
        ('{"result": {}}', None),
        ('{"t": 1.2, "sa', None),
        ("[1]", None),
        ("[" * 100_000, None),
    ],
)
def test_a_line_that_is_cut_off_says_nothing(line: str, said: str | None) -> None:
    assert remote._said(line) == said
