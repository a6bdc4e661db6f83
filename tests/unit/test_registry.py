from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kis_gateway_deploy.registry import (
    ImageReference,
    NoDigestError,
    find_digest,
    kept_digest,
    login_config,
    read_login,
)

DIGEST = f"sha256:{'ab' * 32}"
OTHER = f"sha256:{'cd' * 32}"
LOGIN = base64.b64encode(b"tester:s3cret").decode()


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("kis", ("", "kis", "", "")),
        ("kis:1.4", ("", "kis", "1.4", "")),
        ("team/kis:1.4", ("", "team/kis", "1.4", "")),
        ("localhost/kis", ("localhost", "kis", "", "")),
        ("registry.example/kis:1.4", ("registry.example", "kis", "1.4", "")),
        ("registry.example:5000/team/kis", ("registry.example:5000", "team/kis", "", "")),
        (f"r.example:5000/kis:1.4@{DIGEST}", ("r.example:5000", "kis", "1.4", DIGEST)),
    ],
)
def test_a_reference_is_parsed_as_docker_does(image: str, parts: tuple[str, ...]) -> None:
    found = ImageReference.parse(image)
    assert found == parts
    assert image.startswith(found.name)


@pytest.mark.parametrize(
    ("line", "digest"),
    [
        (f'    image: "registry.example/kis:1.4@{DIGEST}"', DIGEST),
        (f'    image: "registry.example/kis:1.5@{DIGEST}"', ""),
        (f'    image: "another-registry.example/kis:1.4@{DIGEST}"', ""),
        (f'    image: "registryXexample/kis:1.4@{DIGEST}"', ""),
        ('    image: "registry.example/kis:1.4"', ""),
        ("", ""),
    ],
)
def test_a_digest_is_kept_only_for_exactly_the_same_image(line: str, digest: str) -> None:
    assert kept_digest("registry.example/kis:1.4", f"services:\n{line}\n") == digest


def auth_file(directory: Path, config: object) -> Path:
    path = directory / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    return path


@pytest.mark.parametrize(
    ("image", "key"),
    [
        ("registry.example:5000/kis:1", "registry.example:5000"),
        ("localhost/kis", "localhost"),
    ],
)
def test_a_host_is_given_the_login_of_one_registry(tmp_path: Path, image: str, key: str) -> None:
    auths = {key: {"auth": LOGIN}, "other.example": {"auth": "b3RoZXI6b3RoZXI="}}
    path = auth_file(tmp_path, {"auths": auths, "credsStore": "desktop"})
    assert json.loads(login_config(image, path)) == {"auths": {key: {"auth": LOGIN}}}


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ("s3cret", "is no docker config.json"),
        ([], "is no docker config.json"),
        ({}, "is no docker config.json"),
        ({"auths": ["s3cret"]}, "is no docker config.json"),
        ({"auths": {"registry.example": "s3cret"}}, "is no docker config.json"),
        ({"auths": {"other.example": {"auth": "s3cret"}}}, "holds no login for registry.example"),
        ({"auths": {"registry.example": {}}}, "holds no login for registry.example"),
        ({"auths": {"registry.example": {"auth": "s3cret\n"}}}, "holds no login for registry"),
    ],
)
def test_the_error_for_a_file_without_the_login_shows_no_secret(
    tmp_path: Path, config: object, why: str
) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        read_login("registry.example/kis", auth_file(tmp_path, config))
    assert "s3cret" not in str(caught.value)


# From a path with its query and the `Authorization` header to status, headers and body.
Answer = Callable[[str, str], tuple[int, dict[str, str], bytes]]


@pytest.fixture
def registry() -> Iterator[tuple[str, list[Answer]]]:
    """The address of an HTTP server, and a list whose first item answers all requests."""
    answers: list[Answer] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = answers[0](self.path, self.headers.get("Authorization", ""))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield f"127.0.0.1:{server.server_port}", answers
        server.shutdown()


def with_tokens(realm: str, login: str = LOGIN) -> Answer:
    """A registry that requires a token for manifests and issues it for this login."""
    wanted = f'Bearer realm="{realm}",service="kis, and more",scope="repository:team/kis:pull"'
    query = "service=kis%2C+and+more&scope=repository%3Ateam%2Fkis%3Apull"

    def answer(path: str, authorization: str) -> tuple[int, dict[str, str], bytes]:
        if path == f"/token?{query}":
            right = authorization == (f"Basic {login}" if login else "")
            return (200, {}, b'{"token": "t0ken"}') if right else (401, {}, b"")
        if path == "/v2/team/kis/manifests/1.4" and authorization == "Bearer t0ken":
            return 200, {"Docker-Content-Digest": DIGEST}, b""
        return 401, {"WWW-Authenticate": wanted}, b""

    return answer


def test_a_registry_that_wants_a_token_gets_one(
    registry: tuple[str, list[Answer]], tmp_path: Path
) -> None:
    address, answers = registry
    answers.append(with_tokens(f"http://{address}/token"))
    path = auth_file(tmp_path, {"auths": {address: {"auth": LOGIN}}})
    assert find_digest(f"{address}/team/kis:1.4", path) == DIGEST


def test_a_token_may_be_issued_without_a_login(
    registry: tuple[str, list[Answer]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    address, answers = registry
    answers.append(with_tokens(f"http://{address}/token", login=""))
    assert find_digest(f"{address}/team/kis:1.4", None) == DIGEST


def test_a_credential_helper_is_asked(
    registry: tuple[str, list[Answer]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, answers = registry
    helper = tmp_path / "docker-credential-test"
    helper.write_text(
        f'#!/bin/sh\n[ "$1 $(cat)" = "get {address}" ] && '
        'echo \'{"Username": "tester", "Secret": "s3cret"}\'\n'
    )
    helper.chmod(0o755)
    auth_file(tmp_path, {"credHelpers": {address: "test"}})
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    answers.append(with_tokens(f"http://{address}/token"))
    assert find_digest(f"{address}/team/kis:1.4", None) == DIGEST


def test_a_credential_helper_that_hangs_is_ended(
    registry: tuple[str, list[Answer]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, answers = registry
    helper = tmp_path / "docker-credential-test"
    helper.write_text("#!/bin/sh\nexec sleep 600\n")
    helper.chmod(0o755)
    auth_file(tmp_path, {"credHelpers": {address: "test"}})
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("kis_gateway_deploy.registry.HELPER_SECONDS", 0.1)
    answers.append(with_tokens(f"http://{address}/token"))
    with pytest.raises(NoDigestError, match="401"):
        find_digest(f"{address}/team/kis:1.4", None)


def test_a_login_is_sent_only_to_its_registry(
    registry: tuple[str, list[Answer]], tmp_path: Path
) -> None:
    """Neither to a file nor to the target of a redirect."""
    address, answers = registry
    secret = auth_file(tmp_path, {"auths": {address: {"auth": LOGIN}}})
    answers.append(with_tokens(f"file://{secret}"))
    with pytest.raises(NoDigestError, match="unknown form"):
        find_digest(f"{address}/team/kis:1.4", secret)
    seen: list[str] = []

    def redirect(path: str, authorization: str) -> tuple[int, dict[str, str], bytes]:
        if path == "/elsewhere":
            seen.append(authorization)
            return 200, {"Docker-Content-Digest": OTHER}, b""
        if not authorization:
            return 401, {"WWW-Authenticate": 'Basic realm="kis"'}, b""
        return 307, {"Location": f"http://{address}/elsewhere"}, b""

    answers[0] = redirect
    assert find_digest(f"{address}/team/kis:1.4", secret) == OTHER
    assert seen == [""]


@pytest.mark.parametrize(
    ("answer", "why", "silent"),
    [
        ((503, {}, b""), "did not answer: 503 Service Unavailable", True),
        ((429, {}, b""), "did not answer: 429 Too Many Requests", True),
        ((404, {}, b""), "refused: 404 Not Found", False),
        ((403, {}, b""), "refused: 403 Forbidden", False),
        ((401, {"WWW-Authenticate": 'Basic realm="kis"'}, b""), "refused: 401", False),
        ((401, {"WWW-Authenticate": "Bearer nothing"}, b""), "unknown form", False),
        ((401, {}, b""), "refused: 401", False),
        ((200, {}, b""), "has no sha256 digest", False),
        ((200, {"Docker-Content-Digest": "sha256:12"}, b""), "has no sha256 digest", False),
    ],
)
def test_a_silent_registry_and_a_refusing_one_are_distinguished(
    registry: tuple[str, list[Answer]],
    tmp_path: Path,
    answer: tuple[int, dict[str, str], bytes],
    why: str,
    silent: bool,
) -> None:
    address, answers = registry
    answers.append(lambda *_: answer)
    path = auth_file(tmp_path, {"auths": {address: {"auth": LOGIN}}})
    with pytest.raises(NoDigestError, match=why) as caught:
        find_digest(f"{address}/team/kis:1.4", path)
    assert caught.value.silent == silent
    assert LOGIN not in str(caught.value)
    assert f"docker login {address}" in str(caught.value)


def test_a_registry_that_does_not_listen_is_silent(tmp_path: Path) -> None:
    path = auth_file(tmp_path, {"auths": {"127.0.0.1:1": {"auth": LOGIN}}})
    with pytest.raises(NoDigestError, match=r"did not answer: .*refused") as caught:
        find_digest("127.0.0.1:1/kis", path)
    assert caught.value.silent
