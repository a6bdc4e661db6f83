"""Finds the digest of a tag in its registry, from the controller. Touches no host."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import (
    ProxyHandler,
    Request,
    build_opener,
    parse_http_list,
    parse_keqv_list,
)

SECONDS_TO_ANSWER = 10
HELPER_SECONDS = 60
"""For how long a credential helper may take, which may ask a person to unlock it."""
TOO_MANY_REQUESTS = 429
DIGEST = "sha256:[0-9a-f]{64}"
MANIFESTS = ", ".join(
    [
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    ]
)


class ImageReference(NamedTuple):
    """The parts of an image's name, each empty if the name does not have it.

    By the reference grammar of the OCI distribution project, the first part is a registry only if
    it is `localhost` or has a dot or a colon.
    """

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> ImageReference:
        name, _, digest = text.partition("@")
        first, _, rest = name.partition("/")
        is_registry = bool(rest) and (first == "localhost" or bool(re.search("[.:]", first)))
        registry, path = (first, rest) if is_registry else ("", name)
        repository, _, tag = path.partition(":")
        return cls(registry, repository, tag, digest)

    @property
    def name(self) -> str:
        """Without tag and digest."""
        return f"{self.registry}/{self.repository}" if self.registry else self.repository


class NoDigestError(ValueError):
    """Why there is no digest, and what to do. `silent`: the registry did not answer."""

    def __init__(self, image: str, why: str, silent: bool) -> None:
        registry = ImageReference.parse(image).registry
        self.silent = silent
        self.why = f"the registry {registry} {'did not answer' if silent else 'refused'}: {why}"
        login = f"log in here (docker login {registry}, or gateway_registry_auth_file)"
        if not registry:
            self.why, login = why, "name its registry (registry.example/kis:1.4)"
        super().__init__(
            f"{self.why}; so the digest of {image} is unknown: check gateway_image, {login}, or "
            "set gateway_image with its digest (name:tag@sha256:…)"
        )


def kept_digest(image: str, compose_file: str) -> str:
    """The digest that this compose file pins the image to; empty if it does not."""
    found = re.search(rf'"{re.escape(image)}@({DIGEST})"', compose_file)
    return found[1] if found else ""


def read_login(image: str, auth_file: Path) -> str:
    """The login for the image's registry in a docker config.json: `user:password` in base64.

    Raises:
        ValueError: there is none. The text follows the setting's name.
    """
    registry = ImageReference.parse(image).registry
    try:
        auths = json.loads(auth_file.read_bytes())["auths"]
        login = (auths.get(registry) or auths.get(f"https://{registry}") or {}).get("auth")
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise ValueError('is no docker config.json: a JSON object with "auths"') from None
    if not isinstance(login, str) or not re.fullmatch("[A-Za-z0-9+/]+=*", login):
        raise ValueError(f"holds no login for {registry}: docker --config DIR login {registry}")
    return login


def login_config(image: str, auth_file: Path) -> str:
    """A docker config.json with the login for the image's registry only."""
    registry = ImageReference.parse(image).registry
    return json.dumps({"auths": {registry: {"auth": read_login(image, auth_file)}}})


def _own_login(image: str) -> str:
    """The login that `docker login` stored on this machine; empty if there is none."""
    registry = ImageReference.parse(image).registry
    home = os.environ.get("HOME", "/")  # as Docker finds it; a container's user may have none
    path = Path(os.environ.get("DOCKER_CONFIG") or f"{home}/.docker") / "config.json"
    try:
        config = json.loads(path.read_bytes())
        helper = config.get("credHelpers", {}).get(registry) or config.get("credsStore")
        if not helper:
            return read_login(image, path)
        program = [f"docker-credential-{helper}", "get"]
        asked = subprocess.run(
            program, input=registry.encode(), capture_output=True, timeout=HELPER_SECONDS
        )
        got = json.loads(asked.stdout)
        return base64.b64encode(f"{got['Username']}:{got['Secret']}".encode()).decode()
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, AttributeError, TypeError):
        return ""


def find_digest(image: str, auth_file: Path | None) -> str:
    """The digest (`sha256:…`) of the image, or of its index if it is for many architectures.

    Asks the registry itself (OCI Distribution Specification, HEAD of a manifest): the docker CLI
    shows the digest of an index only with buildx, which Debian packages separately.

    Raises:
        NoDigestError: there is none. No login is in its message.
    """
    registry, repository, tag, _ = ImageReference.parse(image)
    if not registry:
        raise NoDigestError(image, f"{image} names no registry", False)
    # As in Docker: plain HTTP only for a registry on this machine.
    scheme = "http" if re.fullmatch(r"(localhost|127\.[\d.]+)(:\d+)?", registry) else "https"
    url = f"{scheme}://{registry}/v2/{repository}/manifests/{tag or 'latest'}"
    login = read_login(image, auth_file) if auth_file else _own_login(image)
    try:
        try:
            answer = _ask(url, "HEAD")
        except HTTPError as error:
            if error.code != 401:
                raise
            challenge = error.headers.get("WWW-Authenticate", "")
            answer = _ask(url, "HEAD", _authorization(challenge, scheme, repository, login))
        found = answer.headers.get("Docker-Content-Digest", "")
    except HTTPError as error:
        silent = error.code >= 500 or error.code == TOO_MANY_REQUESTS
        raise NoDigestError(image, f"{error.code} {error.reason}", silent) from None
    except OSError as error:
        raise NoDigestError(image, str(getattr(error, "reason", error)), True) from None
    except (HTTPException, ValueError, KeyError, AttributeError):  # the text may contain a secret
        raise NoDigestError(image, "its answer has an unknown form", False) from None
    if not re.fullmatch(DIGEST, found):
        raise NoDigestError(image, "its answer has no sha256 digest", False)
    return str(found)


def _authorization(challenge: str, scheme: str, repository: str, login: str) -> str:
    """The Authorization header for a 401: with the login, or a token requested with the login."""
    kind, _, parameters = challenge.partition(" ")
    if kind.lower() != "bearer":
        return f"Basic {login}" if login else ""
    asked = parse_keqv_list(parse_http_list(parameters))
    if not asked["realm"].startswith(f"{scheme}://"):
        raise ValueError("a login is not sent to a realm of another scheme than the image's")
    scope = f"repository:{repository}:pull"
    query = urlencode({"service": asked.get("service", ""), "scope": scope})
    got = json.load(_ask(f"{asked['realm']}?{query}", "GET", f"Basic {login}" if login else ""))
    return f"Bearer {got.get('token') or got['access_token']}"


def _ask(url: str, method: str, authorization: str = "") -> Any:
    request = Request(url, method=method, headers={"Accept": MANIFESTS})  # noqa: S310 - http(s)
    if authorization:
        request.add_unredirected_header("Authorization", authorization)
    # Plain HTTP is only used for this machine, without a proxy.
    proxies = [ProxyHandler({})] if url.startswith("http:") else []
    return build_opener(*proxies).open(request, timeout=SECONDS_TO_ANSWER)
