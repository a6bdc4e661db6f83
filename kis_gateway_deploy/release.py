"""A release: all that decides what runs on a host, named by a hash of its meaning."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import jinja2
import yaml

from kis_gateway_deploy.host.client import authority
from kis_gateway_deploy.paths import IN_PLACE_TEMPLATE, SIMULATOR_CONTEXT, TEMPLATE
from kis_gateway_deploy.plain_yaml import LOADER
from kis_gateway_deploy.registry import login_config
from kis_gateway_deploy.saved_image import SavedImage, find_image
from kis_gateway_deploy.settings import DEFAULT_ENVIRONMENT, Settings, key_fingerprint, read_secrets

# What tools leave behind in a build context; it must not change the image's tag.
NOT_IN_A_CONTEXT = {".git", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".venv", "__pycache__"}

COMPOSE_FILE = "docker-compose.yml"
OVERRIDE_FILE = "override.yml"
MANIFEST = "release.json"
MANIFEST_VERSION = 1


@dataclass(frozen=True)
class File:
    """One file of an archive. `content` may be secret and is left out of the repr."""

    content: bytes = field(repr=False)
    mode: int
    uid: int = 0
    gid: int = 0

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def owner(self) -> list[int]:
        """Mode, uid and gid."""
        return [self.mode, self.uid, self.gid]


@dataclass(frozen=True)
class Image:
    """The image that a release runs, and how a host that lacks it gets it.

    It is built there from `context` (the files of the build context by path), or loaded there from
    `saved`. If both are None it is pulled, with `login` if that is not empty: a docker config.json
    for its registry only.
    """

    reference: str
    context: dict[str, File] | None = None
    saved: SavedImage | None = None
    login: str = field(default="", repr=False)

    @property
    def base(self) -> str:
        """The default of `ARG BASE_IMAGE` in the Dockerfile; empty if there is none."""
        dockerfile = self.context["Dockerfile"].content.decode() if self.context else ""
        for line in dockerfile.splitlines():
            if line.startswith("ARG BASE_IMAGE="):
                return line.removeprefix("ARG BASE_IMAGE=").strip().strip("\"'")
        return ""


@dataclass(frozen=True)
class Release:
    """The compose file, the secrets and the environment file, if any, by name, and the manifest.

    The manifest is what a host must know to run the release, independent of today's inventory: see
    `make_manifest`.
    """

    image: Image
    files: dict[str, File]
    manifest: dict[str, Any]

    @cached_property
    def id(self) -> str:
        """12 hex digits of a hash of the release's meaning.

        The hash covers the parsed compose file, the manifest, and the other files byte for byte: a
        comment in a template makes no other release.
        """
        meaning = {
            "compose": yaml.load(self.files[COMPOSE_FILE].content, LOADER),  # noqa: S506 - safe
            "manifest": self.manifest,
            "files": {
                name: [file.sha256, *file.owner]
                for name, file in self.files.items()
                if name != COMPOSE_FILE
            },
        }
        text = json.dumps(meaning, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def images(self) -> list[Image]:
        """What a host needs; nothing for a gateway in place."""
        return [self.image] if self.image.reference else []

    @property
    def compose_file(self) -> str:
        """The text of the compose file, or of the override for a gateway in place."""
        return self.files[COMPOSE_FILE].content.decode()

    @property
    def compose_files(self) -> list[str]:
        """The names of the files that compose is given, in their order."""
        return [name for name in (COMPOSE_FILE, OVERRIDE_FILE) if name in self.files]

    @property
    def key_fingerprint(self) -> str:
        """The fingerprint of the app key (see `key_fingerprint`)."""
        return str(self.manifest["key"])

    @property
    def files_on_host(self) -> dict[str, File]:
        """All files of the release's directory, with the manifest, which lists the others."""
        files = {
            name: {"sha256": file.sha256, "owner": file.owner} for name, file in self.files.items()
        }
        text = json.dumps(self.manifest | {"files": files}, indent=1, sort_keys=True)
        return self.files | {MANIFEST: File(text.encode(), 0o600)}


def content_hash(files: dict[str, File]) -> str:
    """12 hex digits over names, modes, owners and content of the files, in any order."""
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        digest.update(f"{name}\0{file.mode:o} {file.uid}:{file.gid} {file.sha256}\n".encode())
    return digest.hexdigest()[:12]


def make_release(settings: Settings, template: Path = TEMPLATE, digest: str = "") -> Release:
    """The release that the settings ask for. Reads files on the controller, touches no host.

    `digest` (`sha256:…`) pins an image that is pulled; empty if the reference contains one.

    Raises:
        ValueError: the secrets or the image have become invalid since they were validated.
        jinja2.UndefinedError: the template uses an undefined name.
    """
    if settings.is_in_place:
        return _in_place(settings)
    image = pulled_image(settings, digest)
    if settings.image_source == "archive":
        saved = find_image(settings.image, settings.image_archive)
        image = Image(saved.reference(settings.image), saved=saved)
    elif settings.build_context is not None:
        image = built_image(settings.image, settings.build_context)
    compose = render_compose(settings, image.reference, template).encode()
    files = {COMPOSE_FILE: File(compose, 0o600)}
    secrets = read_secrets(settings)
    if secrets is not None:
        files["secrets.json"] = File(secrets.content, 0o400, settings.uid, settings.gid)
    if settings.override_content is not None:
        files[OVERRIDE_FILE] = File(settings.override_content, 0o600)
    if settings.env_content is not None:
        files["gateway.env"] = File(settings.env_content.content, 0o600)
    return Release(image, files, make_manifest(settings, image.reference))


def _in_place(settings: Settings) -> Release:
    """The override beside the operator's own compose file; there is nothing else to bring."""
    values = settings.model_dump() | {
        "service": settings.service_name,
        "token_variables": settings.token_variables,
    }
    override = File(_template(IN_PLACE_TEMPLATE).render(values).encode(), 0o600)
    manifest = make_manifest(settings, "") | {"in_place": place_of(settings), "restart": None}
    return Release(Image(""), {COMPOSE_FILE: override}, manifest)


def place_of(settings: Settings) -> dict[str, Any] | None:
    """The operator's own compose project, as the host is told of it; None without one."""
    if not settings.is_in_place:
        return None
    return {
        "compose_file": settings.compose_file,
        "service": settings.service_name,
        "variables": settings.token_variables,
    }


def make_manifest(settings: Settings, image: str) -> dict[str, Any]:
    """What a host must know to run a release; `kis_gateway_deploy/host` uses it.

    `v`: the version of this form. `user` (`uid:gid`), `token_dir`, `token_file`
    (see `TokenFiles`), `tokens_expected` (how many valid tokens a gateway needs), `token_mount`
    (the directory in the container). `address`, `port`
    and `health_path`: what a client asks on the host (`health_path` is null for a program without
    HTTP). `network_mode`. `healthcheck`: whether the engine's health counts. `token_at_start`:
    whether a healthy gateway has a token in its file.
    `probe`: see `gateway_probe`. `restart`: the restart policy; null for a gateway in place, whose
    compose file says it. `in_place`: see `place_of`. `key`: the fingerprint of the app key.
    `image`: its reference. On the host it also has `files`: hash, mode, uid and gid by name, and a
    host takes a file without all of these names for damaged.
    """
    return {
        "v": MANIFEST_VERSION,
        "user": settings.user,
        "token_dir": settings.token_dir,
        "token_file": settings.token_file,
        "tokens_expected": settings.tokens_expected,
        "token_mount": settings.token_mount,
        "address": settings.client_address,
        "port": settings.published_port,
        "network_mode": settings.network_mode,
        "health_path": settings.health_path,
        "healthcheck": settings.healthcheck is not None,
        "probe": settings.probe and settings.probe.model_dump(),
        "token_at_start": settings.expects_token,
        "restart": "unless-stopped",
        "key": key_fingerprint(settings),
        "image": image,
    }


def pulled_image(settings: Settings, digest: str) -> Image:
    """`name:tag@sha256:…`: the digest decides, the tag is for people."""
    reference = f"{settings.image}@{digest}" if digest else settings.image
    auth_file = settings.registry_auth_file
    return Image(reference, login=login_config(settings.image, auth_file) if auth_file else "")


def built_image(repository: str, context: Path) -> Image:
    """An image built from a directory on the controller, tagged by the hash of its content."""
    files = {
        str(path.relative_to(context)): File(
            path.read_bytes(), 0o755 if path.stat().st_mode & 0o100 else 0o644
        )
        for path in sorted(context.rglob("*"))
        if path.is_file() and not NOT_IN_A_CONTEXT & set(path.relative_to(context).parts)
    }
    return Image(f"{repository}:{content_hash(files)}", files)


@cache
def simulator_image() -> Image:
    """The KIS simulator of this repository."""
    return built_image("kis-simulator", SIMULATOR_CONTEXT)


def archive(files: Iterable[tuple[str, File]]) -> bytes:
    """A tar.gz of the files, with their modes and owners."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=6) as tar:
        for name, file in files:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(file.content), file.mode
            info.uid, info.gid = file.uid, file.gid
            tar.addfile(info, io.BytesIO(file.content))
    return buffer.getvalue()


def render_compose(settings: Settings, image: str, template: Path = TEMPLATE) -> str:
    """The compose file. Undefined names are errors; every value is quoted by `to_yaml`."""
    # An env file's value would lose against a default.
    environment = {k: v for k, v in DEFAULT_ENVIRONMENT.items() if k not in settings.env_names}
    values = settings.model_dump() | {
        "image": image,
        "published": authority(settings.bind_address, settings.port),
        "environment": environment | settings.environment,
        "token_variables": settings.token_variables,
    }
    return _template(template).render(values)


@cache
def _template(path: Path) -> jinja2.Template:
    """Compiled once for all hosts."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - YAML, not HTML; `to_yaml` does the quoting
    )
    environment.filters["yaml"] = to_yaml
    return environment.from_string(path.read_text("utf-8"))


class _QuotedDumper(yaml.SafeDumper):
    """Writes every string in double quotes, so that no YAML parser reads it as another type."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


_QuotedDumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'),
)


# `to_yaml` of an undefined variable raises UndefinedError with its name.
_QuotedDumper.add_representer(
    jinja2.StrictUndefined, lambda dumper, undefined: dumper.represent_str(str(undefined))
)


def to_yaml(value: Any) -> str:
    """A value as one line of YAML that compose reads back unchanged.

    Compose replaces `$name` in every value (Compose specification, "Interpolation"); `$$` is a
    literal `$`.
    """
    text: str = yaml.dump(
        _escape_dollars(value),
        Dumper=_QuotedDumper,
        default_flow_style=True,
        allow_unicode=True,
        width=float("inf"),
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _escape_dollars(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, dict):
        return {name: _escape_dollars(item) for name, item in value.items()}  # names stay as is
    if isinstance(value, list | tuple):
        return [_escape_dollars(item) for item in value]
    return value
