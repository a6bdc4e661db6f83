"""The inventory that deploys a copy of a container.

Pure. What is shown of a description is escaped, or written as a Python literal. No value of a
variable or of a secrets file is in the inventory unless it is `compose_changes.harmless`.
"""

from __future__ import annotations

import ast
import base64
import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from pprint import pformat
from textwrap import indent, wrap
from typing import Any

from pydantic import ValidationError

from kis_gateway_deploy.compose_changes import harmless
from kis_gateway_deploy.credentials import find_app_key
from kis_gateway_deploy.description import Container, SecretsFile, TokenFile
from kis_gateway_deploy.env_file import EnvFileError, values_in
from kis_gateway_deploy.host.containers import DEFAULT_TOKEN_PATH
from kis_gateway_deploy.host.tokens import KOREA
from kis_gateway_deploy.override import problems_in
from kis_gateway_deploy.plain_yaml import load_plain
from kis_gateway_deploy.reading import escaped
from kis_gateway_deploy.release import to_yaml
from kis_gateway_deploy.setting_forms import SECRETS_TARGET
from kis_gateway_deploy.settings import DEFAULT_ENVIRONMENT, RESERVED_ENVIRONMENT, SERVICE, Settings


@dataclass(frozen=True)
class Written:
    """An inventory, the files beside it by suffix (secret), and what is to be decided by hand."""

    inventory: str
    companions: dict[str, bytes] = field(repr=False)
    notes: tuple[str, ...]
    kept_apart: tuple[str, ...]
    """The names of the variables in the env file."""


SUFFIXES = (".env", ".secrets.json", ".secrets.yaml", ".override.yml")
"""Of the files that may be written beside `NAME.py`: `NAME.env`."""


def write(host: str, data: Mapping[str, Any], found: Container, clock: int, stem: str) -> Written:
    """The inventory that deploys a copy of a container, and the files that it needs.

    `data`: the host's inventory data; `clock`: the host's, epoch seconds; `stem`: the inventory's
    name without `.py`.
    """
    made = _Inventory(found, clock, stem)
    made.place_token()
    if found.compose_file:
        made.in_place()
    else:
        made.on_its_own()
    connection, left_out = _connection(data)
    return Written(
        made.text(host, connection, left_out),
        made.companions,
        tuple(made.notes),
        tuple(made.env_names),
    )


PRIVATE = re.compile("password|passphrase|secret|token", re.I)


def _connection(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The host data that is not this package's, and the names of what is left out of it."""
    prefixes = ("gateway_", "rollout_", "plan_")
    ours = {name: value for name, value in data.items() if not name.startswith(prefixes)}
    kept = {
        name: value
        for name, value in ours.items()
        if not PRIVATE.search(name) and _is_literal(value) and not PRIVATE.search(repr(value))
    }
    return kept, [name for name in ours if name not in kept]


def _is_literal(value: Any) -> bool:
    """Whether its repr means the same value in an inventory."""
    if isinstance(value, Path):
        return True
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False


class _Beside:
    """A path beside the inventory, as its text names it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"_here / {self.name!r}"


HEX = re.compile("[0-9a-f]{32,}", re.I)
DATE = re.compile(r"(?<!\d)\d{8}(?!\d)")
URL = re.compile(
    r"https?://(?:localhost|127\.0\.0\.1|0\.0\.0\.0|\[::1\])(?::(\d{1,5}))?(/[^\s'\"|;)\\`$]*)?"
)
KEY_NAME = re.compile("app[-_]?key", re.I)
NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
ENGINE_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)


class _Inventory:
    """The settings of one container, in the order in which they are written."""

    def __init__(self, found: Container, clock: int, stem: str) -> None:
        self.found, self.clock, self.stem = found, clock, stem
        self.data: dict[str, Any] = {}
        self.comments: dict[str, str] = {}
        self.notes: list[str] = []
        self.companions: dict[str, bytes] = {}
        self.env_names: list[str] = []
        self.token_data: dict[str, Any] = {}
        self.token_env: list[str] = []
        self.token_path = ""
        self.token_mount = Settings.model_fields["token_mount"].default
        self.working_dir = ""
        if not found.user:
            self.note("gateway_user: the user of the container is unknown; set it as `uid:gid`")

    def note(self, text: str) -> None:
        self.notes.append(escaped(text))

    def put(self, name: str, value: Any, comment: str = "") -> bool:
        """Sets a setting if it can have this value, which is not secret; else notes why not."""
        if why := _why_not(name, value):
            self.note(f"{name}: {value!r} cannot be used: {why}")
            return False
        self.data[name] = value
        if comment:
            self.comments[name] = escaped(comment)
        return True

    # The token

    def place_token(self) -> None:
        """Where the token is in the container, and where it is to be."""
        found = self.found
        named = {
            self._absolute(value): name
            for name, value in reversed(found.variables.items())
            if re.search("TOKEN.*(FILE|PATH)", name) and "/" in value
        }
        tokens = [each for each in found.tokens if each.state == "token"]
        best = max(tokens, key=lambda each: each.expiries[-1:], default=None)
        if best is None:
            unknown = [each for each in found.tokens if each.path in named]
            best = unknown[0] if unknown else None
            what = (
                f"the file {best.path} has no token that this package can read"
                if best
                else "no token was found in the container"
            )
            self.note(
                f"{what}: if it has one elsewhere, set gateway_adopt_token_path; if it keeps it in "
                'memory or a database, set gateway_token_store = "external"; to let the new '
                "container ask KIS for one, set gateway_adopt_without_token = True"
            )
        elif not best.valid(self.clock):
            self.note(f"the token in {best.path} has expired: the new container asks KIS for one")
        if best is None:
            path = next(iter(named), "")
            if path and path != "/":
                self._relocate(path)
            return
        self._place(best, [each for each in tokens if each.directory == best.directory])
        elsewhere = [
            each.path
            for each in tokens
            if each.directory != best.directory and each.valid(self.clock)
        ]
        if elsewhere:
            self.note(
                f"there are valid tokens in other places, too: {', '.join(elsewhere)}; only those "
                f"in {best.directory} are kept"
            )

    def _place(self, best: TokenFile, files: list[TokenFile]) -> None:
        valid = [each for each in files if each.valid(self.clock)] or [best]
        forms = {_form(each.name, self.clock) for each in valid}
        form = forms.pop() if len(forms) == 1 else None
        if len(valid) > 1 and form == best.name:
            form = None
        self.token_path = best.path
        is_one = form == best.name
        can_mount = best.alone and not _why_not("gateway_token_mount", best.directory)
        if _why_not("gateway_token_file", form):
            self.note(f"gateway_token_file: {best.name!r} cannot be used: choose another name")
            return
        self.token_env = self._names_of(best, is_one)
        if can_mount:
            self.token_mount = best.directory
        elif not self._can_move(best):
            return
        adopted = best.path if is_one else best.directory
        if why := _why_not("gateway_adopt_token_path", adopted):
            self.note(
                f"gateway_adopt_token_path: {adopted!r} cannot be used: {why}. Let the gateway "
                "keep its tokens in a directory of their own"
            )
            return
        self.token_data = {
            "gateway_token_mount": self.token_mount,
            "gateway_token_file": form,
            "gateway_token_env": self.token_env or None,
        }
        expected = sum(each.valid(self.clock) for each in valid)
        if expected > 1:
            self.token_data["gateway_tokens_expected"] = min(expected, 20)
        if self.token_mount != best.directory:
            self.token_data["gateway_adopt_token_path"] = adopted

    def _can_move(self, best: TokenFile) -> bool:
        """Whether the token can be in another directory, because the old one has other files."""
        why = (
            f"a mount at {best.directory} would hide the other files of that directory"
            if not best.alone
            else f"{best.directory} cannot be a mount"
        )
        if self.token_env:
            names = ", ".join(self.token_env)
            self.comments["gateway_token_mount"] = escaped(f"{why}: {names} will name this one")
            return True
        if self._can_change_directory(best):
            self.working_dir = self.token_mount
            self.comments["gateway_token_mount"] = escaped(
                f"{why}: this will be the working directory"
            )
            return True
        self.note(
            f"{why}, and no variable names the token file: the new container would not find its "
            "token. Let the gateway keep it in a directory of its own, then set "
            "gateway_token_mount, gateway_token_file and gateway_token_env"
        )
        return False

    def _can_change_directory(self, best: TokenFile) -> bool:
        """Whether only the token depends on the working directory: the program is absolute."""
        found = self.found
        words = [word for word in found.program[1:] if not word.startswith("-")]
        program = found.program[0] if found.program else ""
        is_absolute = program.startswith("/") or (bool(program) and "/" not in program)
        return (
            not found.compose_file
            and posixpath.normpath(found.working_dir) == best.directory
            and is_absolute
            and "-m" not in found.program
            and all(word.startswith("/") for word in words)
        )

    def _names_of(self, best: TokenFile, is_one: bool) -> list[str]:
        """The variables that name the token file, or end with `_DIR` and name its directory."""
        taken = RESERVED_ENVIRONMENT | DEFAULT_ENVIRONMENT
        names = []
        for name, value in self.found.variables.items():
            path = self._absolute(value)
            is_named = (
                path == best.directory if name.endswith("_DIR") else is_one and path == best.path
            )
            if value and is_named and NAME.fullmatch(name) and name not in taken:
                names.append(name)
        if best.path == DEFAULT_TOKEN_PATH and not names:
            names = ["KIS_TOKEN_FILE_PATH"]  # whose default this path is
        return names

    def _relocate(self, path: str) -> None:
        """Settings for a file that is not there yet."""
        missing = TokenFile(path=path, state="unknown")
        self._place(missing, [missing])

    def _absolute(self, value: str) -> str:
        return posixpath.normpath(posixpath.join(self.found.working_dir, value))

    # The two shapes

    def in_place(self) -> None:
        """The gateway stays a service of the operator's compose project."""
        found = self.found
        self.put("gateway_compose_file", found.compose_file)
        self.put("gateway_service", found.labels.get("com.docker.compose.service", ""))
        if found.user:
            self.put("gateway_user", found.user)
        self._network(is_in_place=True)
        self._health_path()
        self.data |= self.token_data
        files = found.labels.get("com.docker.compose.project.config_files", "").split(",")
        if len(files) > 1:
            self.note(f"its compose project has several files: {', '.join(files)}")

    def on_its_own(self) -> None:
        """A container of `docker run` becomes a release of this package."""
        found = self.found
        self._image()
        if found.user:
            self.put("gateway_user", found.user)
        self._network(is_in_place=False)
        secrets = self._secrets()
        service: dict[str, Any] = {}
        service["environment"] = self._environment(secrets)
        if "gateway_app_key_field" not in self.data:
            self.note(
                "gateway_app_key_field: no app key was found in the container's variables and "
                "mounted files: set it, and gateway_secrets_file (or gateway_env_file)"
            )
        self._health_path()
        self._healthcheck(service)
        self._resources()
        self.data |= self.token_data
        if self.put("gateway_adopt_container", found.name):
            if f"{Settings.model_fields['project'].default}-{SERVICE}-1" == found.name:
                self.data["gateway_project"] = "kis-adopted"
            if self.token_path:
                path = self.token_data.get("gateway_adopt_token_path")
                if path or "gateway_token_file" not in self.token_data:
                    path = path or self.token_path
                else:
                    is_one = (
                        posixpath.basename(self.token_path) == self.token_data["gateway_token_file"]
                    )
                    path = self.token_path if is_one else posixpath.dirname(self.token_path)
                self.token_data.pop("gateway_adopt_token_path", None)
                self.data.pop("gateway_adopt_token_path", None)
                self.put("gateway_adopt_token_path", path)
        self._override(service, secrets)
        self._doubts()

    def _image(self) -> None:
        found = self.found
        if not self.put("gateway_image", found.image):
            return
        if not found.has_digest:
            self.data["gateway_image_source"] = "host"
            self.comments["gateway_image_source"] = "the image is from no registry"
        if not found.image_is_current:
            self.note(
                f"gateway_image: {found.image} is another image now than the container runs "
                f"({found.image_id}), so a deploy would change it"
            )

    def _network(self, is_in_place: bool) -> None:
        found = self.found
        tcp = [each for each in found.ports if each[1] == "tcp"]
        likely = [each for each in tcp if str(each[0]) == found.variables.get("PORT")]
        port = next(iter(likely or tcp), None)
        mode = found.network_mode
        if mode == "host":
            self.put("gateway_network_mode", "host")
            if not is_in_place:
                self.put("gateway_open_to_network", True, "as it is now: restrict it by a firewall")
            self._container_port(self._likely_port(), "in the host's network")
            return
        if mode.startswith("container:") or mode == "none":
            self.note(f"gateway_network_mode: {mode} is not supported: it would become bridge")
        if port is None:
            self._container_port(self._likely_port(), "")
            self.note(
                "gateway_port: the container publishes no port; the deploy publishes port 8080 on "
                "127.0.0.1 of the host"
            )
            return
        others = [f"{each[0]}/{each[1]}" for each in found.ports if each is not port]
        if others and not is_in_place:
            self.note(f"gateway_port: only one port is published; not {', '.join(others)}")
        in_container, _, address, on_host = port
        self._container_port(in_container, "")
        if on_host.isdecimal() and len(on_host) < 6:
            if int(on_host) != 8080:
                self.put("gateway_port", int(on_host))
        else:
            self.note("gateway_port: the port on the host is unknown; the default is 8080")
        address = address or "0.0.0.0"  # noqa: S104 - never bound here
        if address == "127.0.0.1" or not self.put("gateway_bind_address", address):
            return
        if not is_in_place and not ip_address(address).is_loopback:
            self.put("gateway_open_to_network", True, "as it is now: restrict it by a firewall")

    def _container_port(self, port: int | None, where: str) -> None:
        if port is None:
            self.note(
                f"gateway_container_port: the port that the gateway listens on {where} is "
                "unknown; the default is 8080"
            )
        elif port != 8080:
            self.put("gateway_container_port", port)

    def _likely_port(self) -> int | None:
        found = self.found
        exposed = [each.partition("/")[0] for each in found.exposed if each.endswith("/tcp")]
        candidates = [found.variables.get("PORT", ""), self._url()[0]]
        candidates += exposed if len(exposed) == 1 else []
        return next((int(each) for each in candidates if re.fullmatch("[0-9]{1,5}", each)), None)

    def _url(self) -> tuple[str, str]:
        """Port and path that the health check asks; each empty if there is none."""
        test = (self.found.healthcheck or {}).get("Test")
        match = URL.search(" ".join(test)) if isinstance(test, tuple) else None
        return (match[1] or "", match[2] or "/") if match else ("", "")

    def _health_path(self) -> None:
        path = self._url()[1]
        if path and harmless(path):
            if path != "/health":
                self.put("gateway_health_path", path)
            return
        self.data["gateway_health_path"] = "/health"
        self.comments["gateway_health_path"] = (
            "the default: no health check names another; None for a program without HTTP"
        )

    def _healthcheck(self, service: dict[str, Any]) -> None:
        check, found = self.found.healthcheck, self.found
        if not check or not found.has_healthcheck:
            return
        test = check.get("Test")
        if not isinstance(test, tuple) or not test:
            return
        if test[0] == "NONE":
            service["healthcheck"] = {"disable": True}
            return
        names = {"Interval": "interval", "Timeout": "timeout", "StartPeriod": "start_period"}
        names["StartInterval"] = "start_interval"
        made: dict[str, Any] = {"test": list(test)}
        for name, ours in names.items():
            nanoseconds = check.get(name)
            if isinstance(nanoseconds, int) and nanoseconds > 0:
                made[ours] = f"{max(1, nanoseconds // 10**6)}ms"
        if isinstance(retries := check.get("Retries"), int) and retries > 0:
            made["retries"] = retries
        values = [value for value in found.environment.values() if len(value) > 5]
        if any(value in word for word in test for value in values if not harmless(value)):
            service["healthcheck"] = made  # it has a secret, and the override is not shown
        else:
            self.data["gateway_healthcheck"] = made

    def _resources(self) -> None:
        found = self.found
        if found.memory:
            self.put("gateway_memory_limit", f"{found.memory}b")
        if found.cpus:
            self.put("gateway_cpus", round(found.cpus, 3))
        missing = [
            name
            for name, value in (("memory", found.memory), ("processors", found.cpus))
            if not value
        ]
        if missing:
            self.note(
                f"the container has no limit of {' and '.join(missing)}; a deploy sets one "
                "(gateway_memory_limit, gateway_cpus)"
            )
        if not found.read_only:
            self.put("gateway_read_only", False)

    # Secrets and variables

    def _secrets(self) -> SecretsFile | None:
        """The secrets file, which is written beside the inventory, and the app key's field."""
        wanted = self._absolute(self.found.variables.get("SECRETS_FILE", "") or "/")
        for each in sorted(self.found.secrets, key=lambda file: file.path != wanted):
            try:
                content = base64.b64decode(each.content, validate=True)
                is_yaml = each.path.endswith((".yaml", ".yml"))
                text = content.decode()
                fields = load_plain(text) if is_yaml else json.loads(text)
            except (ValueError, RecursionError):
                continue
            names = [name for name in _key_names(fields) if find_app_key(fields, name)]
            if not names:
                continue
            suffix = ".secrets.yaml" if is_yaml else ".secrets.json"
            self.companions[suffix] = content
            self.data["gateway_secrets_file"] = _Beside(self.stem + suffix)
            self._app_key_field(names, each.path)
            return each
        return None

    def _app_key_field(self, names: Sequence[str], where: str) -> None:
        self.put("gateway_app_key_field", names[0])
        if len(names) > 1:
            self.note(
                f"gateway_app_key_field: {where} has several app keys ({', '.join(names[:10])}): "
                f"is {names[0]} the one that the token is for?"
            )

    def _environment(self, secrets: SecretsFile | None) -> dict[str, str]:
        """Sets the variables; returns those that only the override can set."""
        plain: dict[str, str] = {}
        lines: dict[str, str] = {}
        rest: dict[str, str] = {}
        port = str(self.data.get("gateway_container_port", 8080))
        token_env = self.token_env if self.token_data else ["KIS_TOKEN_FILE_PATH"]
        for name, value in self.found.environment.items():
            if self.token_data and name in token_env:
                continue
            if name in RESERVED_ENVIRONMENT or name in token_env:
                follows = {"PORT": port}
                if secrets:
                    follows["SECRETS_FILE"] = secrets.path
                if follows.get(name) != value:
                    rest[name] = value
            elif NAME.fullmatch(name) and secrets and self._absolute(value) == secrets.path:
                plain[name] = SECRETS_TARGET
            elif NAME.fullmatch(name) and harmless(value):
                plain[name] = value
            elif line := _env_line(name, value):
                lines[name] = line
            elif name and "=" not in name:
                rest[name] = value
        if plain:
            self.data["gateway_environment"] = plain
        if lines:
            self.env_names = list(lines)
            self.companions[".env"] = "".join(lines.values()).encode()
            self.data["gateway_env_file"] = _Beside(f"{self.stem}.env")
        if "gateway_app_key_field" not in self.data and not secrets:
            settable = {n: v for n, v in self.found.environment.items() if n in {*plain, *lines}}
            names = [name for name in _key_names(settable) if find_app_key(settable, name)]
            if names:
                self._app_key_field(names, "the container's environment")
        return rest

    # What has no setting

    def _override(self, service: dict[str, Any], secrets: SecretsFile | None) -> None:
        found = self.found
        top: dict[str, Any] = {}
        for name in ("entrypoint", "command"):
            if (words := getattr(found, name)) is not None:
                service[name] = list(words)
        if self.working_dir or found.has_working_dir:
            service["working_dir"] = self.working_dir or found.working_dir
        for name in ("dns", "cap_add"):
            if words := getattr(found, name):
                service[name] = list(words)
        is_host = found.network_mode == "host"
        hosts = [each for each in found.extra_hosts if is_host or each != OWN_HOST]
        if hosts:
            service["extra_hosts"] = hosts
        if found.ulimits:
            service["ulimits"] = {
                name: {"soft": soft, "hard": hard} for name, (soft, hard) in found.ulimits.items()
            }
        labels = {
            name: value
            for name, value in found.labels.items()
            if name and not name.startswith("com.docker.") and name != "kis-simulator"
        }
        if labels:
            service["labels"] = labels
        ordinary = {"default", "bridge", "host", "none"}
        if found.network_mode not in ordinary and not found.network_mode.startswith("container:"):
            networks = [each for each in found.networks if ENGINE_NAME.fullmatch(each)]
            if networks:
                service["networks"] = networks
                top["networks"] = {name: {"external": True} for name in networks}
        volumes = self._volumes(secrets)
        if volumes:
            service["volumes"] = [each for each, _ in volumes]
            names = {each["source"] for each, is_volume in volumes if is_volume}
            if names:
                top["volumes"] = {name: {"external": True} for name in sorted(names)}
        tmpfs = [
            f"{path}:{options}" if options else path
            for path, options in found.tmpfs.items()
            if self._can_mount(path)
        ]
        if tmpfs:
            service["tmpfs"] = tmpfs
        service = {name: value for name, value in service.items() if value or name in EMPTY_COUNTS}
        if not service:
            return
        lines = ["services:", f"  {SERVICE}:"]
        lines += [f"    {name}: {to_yaml(value)}" for name, value in service.items()]
        lines += [f"{name}: {to_yaml(value)}" for name, value in top.items()]
        content = ("\n".join(lines) + "\n").encode()
        if problems := problems_in(content, SERVICE, self.token_mount):
            self.note(f"gateway_compose_override cannot be used: {'; '.join(problems)}")
            return
        self.companions[".override.yml"] = content
        self.data["gateway_compose_override"] = _Beside(f"{self.stem}.override.yml")
        self.comments["gateway_compose_override"] = f"what has no setting: {', '.join(service)}"

    def _volumes(self, secrets: SecretsFile | None) -> list[tuple[dict[str, Any], bool]]:
        """The mounts that a copy needs, each with whether it is a named volume."""
        made: dict[str, tuple[dict[str, Any], bool]] = {}
        named = [
            name
            for name, value in self.found.environment.items()
            if secrets and self._absolute(value) == secrets.path
        ]
        for mount in self.found.mounts:
            path = mount.destination
            if secrets and path == secrets.path and (named or path == SECRETS_TARGET):
                continue  # the package mounts it
            if path == self.token_path or not self._can_mount(path):
                continue
            is_volume = mount.type == "volume"
            source = mount.name if is_volume else mount.source
            is_usable = (
                ENGINE_NAME.fullmatch(source)
                if is_volume
                else mount.type == "bind" and source.startswith("/")
            )
            if not is_usable:
                self.note(f"the mount at {path} ({mount.type}) is not taken over")
                continue
            entry = {"type": mount.type, "source": source, "target": path}
            made[path] = (entry | ({} if mount.rw else {"read_only": True}), is_volume)
        if secrets and not named and secrets.path != SECRETS_TARGET:
            self.note(
                f"no variable names {secrets.path}, so it stays mounted from the host; the copy "
                f"beside the inventory is mounted at {SECRETS_TARGET}"
            )
        return list(made.values())

    def _can_mount(self, path: str) -> bool:
        """Whether the override may mount something here; notes it if something gets lost."""
        normal = posixpath.normpath(path)
        if f"{path}/".startswith(f"{self.token_mount}/") or f"{normal}/".startswith(
            f"{self.token_mount}/"
        ):
            return False  # the token directory of the host takes its place
        if normal in {"/tmp", SECRETS_TARGET}:  # noqa: S108 - compared, never used
            if normal == SECRETS_TARGET or path not in self.found.tmpfs:
                self.note(f"the mount at {path} is not taken over: this package mounts it itself")
            return False
        return path.startswith("/") and normal != "/"

    def _doubts(self) -> None:
        """What a copy by this package does otherwise."""
        found = self.found
        if found.privileged:
            self.note("the container is privileged or has devices, which is not taken over")
        if found.user.startswith("0:") and "ALL" not in found.cap_drop:
            self.note(
                "the container is root with Docker's capabilities; a deploy drops them all (an "
                "override can give some back: cap_add)"
            )
        is_root = found.configured_user in {"", "0", "root", "0:0"}
        if is_root and found.user and not found.user.startswith("0:"):
            self.note(
                f"the container starts as root and becomes {found.user}; a deploy starts it as "
                "that user"
            )
        if found.auto_remove:
            self.note(
                "gateway_adopt_container: it was started with --rm, so a deploy refuses to stop "
                "it: start it again without --rm"
            )
        if found.sharers:
            self.note(
                f"these containers are in its network, and lose it when it is replaced: "
                f"{', '.join(found.sharers)}"
            )

    # The text

    def text(self, host: str, connection: Mapping[str, Any], left_out: Sequence[str]) -> str:
        """The inventory's Python source."""
        found = self.found
        what = "stays in its compose project" if found.compose_file else "is replaced by a copy"
        lines = _comment(
            f"The container {found.name}, as `make adopt` found it: it {what}, and its token is "
            "kept on the host. Read this file, then: make plan INVENTORY=this file"
        )
        if self.notes:
            lines += ["#", "# To decide by hand:"]
            for note in self.notes:
                lines += _comment(note, "- ")
        imports = "from pathlib import Path, PosixPath"
        lines += [
            "",
            imports if any(isinstance(v, Path) for v in connection.values()) else imports[:-11],
            "",
            "_here = Path(__file__).resolve().parent",
            "",
            f"gateways = [({host!r}, {{",
        ]
        for name, value in connection.items():
            lines += _entry(name, value)
        if left_out:
            text = escaped(f"left out, add them yourself: {', '.join(left_out)}")
            lines += [f"    {line}" for line in _comment(text)]
        for name, value in self.data.items():
            if comment := self.comments.get(name):
                lines += [f"    {line}" for line in _comment(comment)]
            lines += _entry(name, value)
        return "\n".join([*lines, "})]", ""])


OWN_HOST = "host.docker.internal:host-gateway"
EMPTY_COUNTS = {"entrypoint", "command"}
"""An empty list in an override takes the image's away."""


def _comment(text: str, first: str = "") -> list[str]:
    """An escaped text as lines of a comment."""
    return wrap(
        text,
        96,
        initial_indent=f"# {first}",
        subsequent_indent=f"# {' ' * len(first)}",
        break_on_hyphens=False,
    )


def _entry(name: str, value: Any) -> list[str]:
    text = pformat(value, width=88, sort_dicts=False)
    first, *rest = text.split("\n")
    lines = [f"    {name!r}: {first}", *(indent(line, "    ") for line in rest)]
    lines[-1] += ","
    return lines


def _why_not(name: str, value: Any) -> str:
    """Why a setting cannot have this value; empty if it can."""
    try:
        Settings.model_validate({name: value})
    except ValidationError as error:
        return "; ".join(str(each["msg"]).removeprefix("Value error, ") for each in error.errors())
    return ""


def _form(name: str, clock: int) -> str:
    """A token file's name as `gateway_token_file`: with its date or hash as a pattern."""
    if found := DATE.search(name):
        today = datetime.fromtimestamp(clock, KOREA)
        days = [f"{today - timedelta(days=number):%Y%m%d}" for number in (-1, 0, 1, 2)]
        if found[0] in days:
            return f"{name[: found.start()]}{{date:%Y%m%d}}{name[found.end() :]}"
    return HEX.sub("*", name)


def _key_names(fields: Any) -> list[str]:
    """The names, or dotted paths, of fields that look like an app key, the real ones first."""
    found: list[str] = []
    open_ends: list[tuple[str, Any]] = [("", fields)]
    for path, value in open_ends:  # grows meanwhile
        if isinstance(value, dict):
            open_ends += [(f"{path}.{name}" if path else str(name), v) for name, v in value.items()]
        elif isinstance(value, str) and value:
            last = path.rpartition(".")[2]
            if KEY_NAME.search(last) and "secret" not in last.lower():
                found.append(path)
    return sorted(
        found, key=lambda name: bool(re.search("paper|virtual|mock|vts|-v-|_v_", name, re.I))
    )


def _env_line(name: str, value: str) -> str:
    """The line of an env file that means this value; empty if none does."""
    quoted = value.replace("'", "\\'")
    for line in (f"{name}='{quoted}'\n", f"{name}={value}\n"):
        try:
            if "\r" not in value and values_in(line.encode()) == {name: value}:
                return line
        except EnvFileError:
            continue
    return ""
