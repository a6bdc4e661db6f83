"""The settings of all hosts of an inventory, checked before anything is touched."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kis_gateway_deploy.credentials import reason
from kis_gateway_deploy.env_file import EnvFileError
from kis_gateway_deploy.override import problems_in
from kis_gateway_deploy.reading import escaped
from kis_gateway_deploy.registry import ImageReference, read_login
from kis_gateway_deploy.saved_image import find_image
from kis_gateway_deploy.settings import (
    DEFAULT_ENVIRONMENT,
    KNOWN_NAMES,
    NOT_IN_PLACE,
    PREFIXES,
    REQUIRED,
    RESERVED_ENVIRONMENT,
    SERVICE,
    Settings,
    alias,
)
from kis_gateway_deploy.windows import OUTSIDE_KRX

# Host name, setting, and what is wrong with it.
Problem = tuple[str, str, str]


class SettingsError(ValueError):
    """All wrong settings of an inventory in one message; `problems` in inventory order."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        width = max(len(f"{host}: {name}") for host, name, _ in problems)
        lines = [
            escaped(f"  {f'{host}: {name}':<{width}}  {what}") for host, name, what in problems
        ]
        count = f"{len(problems)} setting{'s' if len(problems) > 1 else ''}"
        super().__init__(
            f"{count} of the inventory cannot be used; no host was touched.\n" + "\n".join(lines)
        )


def validate_fleet(fleet: Mapping[str, Mapping[str, Any]]) -> dict[str, Settings]:
    """The settings of every host, or one error that lists everything wrong with any of them.

    `fleet` maps each inventory name to its host data; names without one of our prefixes (such as
    `ssh_hostname`) are pyinfra's and are only read to find two names of one machine. Touches no
    host; reads the secrets, environment, login, build and image files on the controller.

    Raises:
        SettingsError: with all problems of all hosts.
    """
    valid: dict[str, Settings] = {}
    problems: list[Problem] = []
    for host, data in fleet.items():
        settings, found = _validate(data)
        problems += [(host, *problem) for problem in found]
        if not found:
            valid[host] = settings
    problems += _collisions(fleet, valid) + _differing_rollouts(valid)
    if problems:
        raise SettingsError(problems)
    return valid


def _validate(data: Mapping[str, Any]) -> tuple[Settings, list[tuple[str, str]]]:
    """One host's settings, with defaults for what is wrong, and (name, what is wrong) pairs."""
    problems = [(name, hint) for name in data if (hint := _suggestion(name))]
    ours = {name: value for name, value in data.items() if name in KNOWN_NAMES}
    wrong: set[str] = set()
    try:
        settings = Settings.model_validate(ours)
    except ValidationError as error:
        problems += [(_field(e["loc"]), _message(e)) for e in error.errors()]
        wrong = {str(e["loc"][0]) for e in error.errors()}
        # Valid settings still get the checks below, so that one error lists all problems.
        right = {name: value for name, value in ours.items() if name not in wrong}
        settings = Settings.model_validate(right)
    placed = [each for each in _place_problems(settings) if wrong.isdisjoint(each[0])]
    wrong |= {names[0] for names, _ in placed}
    checked = _relations(settings) + _file_problems(settings)
    placed += [each for each in checked if wrong.isdisjoint(each[0])]
    problems += [(names[0], what) for names, what in placed]
    return settings, problems


REMOVED = {
    "rollout_lock_ttl": "was removed: there is no lock that could expire (of two deploys at once, "
    "the second is refused); delete it",
}


def _suggestion(name: str) -> str:
    """What is wrong with a name of the host data; empty if it is a setting, or clearly none."""
    if name in REMOVED:
        return REMOVED[name]
    if name in KNOWN_NAMES:
        return ""
    near = difflib.get_close_matches(name, KNOWN_NAMES, n=1, cutoff=0.8)
    if name.startswith(PREFIXES):
        hint = f"did you mean {near[0]}?" if near else "see docs/settings.md"
        return f"is not a setting; {hint}"
    return f"looks like {near[0]}, misspelt" if near and not name.startswith("_") else ""


def _field(location: tuple[int | str, ...]) -> str:
    """The place of a wrong value. A wrong dictionary key may be a secret: it is not repeated."""
    is_named = len(location) == 2 and isinstance(location[1], str)
    return f"{location[0]}.{location[1]}" if is_named else str(location[0])


def _message(error: Any) -> str:
    if error["type"] == "missing":
        return "is missing"
    return str(error["msg"]).removeprefix("Value error, ")


def _relations(settings: Settings) -> list[tuple[tuple[str, ...], str]]:
    """Settings that are valid alone but not together; the first name is the one to change."""
    problems: list[tuple[tuple[str, ...], str]] = []
    reference = ImageReference.parse(settings.image or "none")
    if settings.secrets_file is not None and settings.secrets_command is not None:
        problems.append(
            (
                ("gateway_secrets_command", "gateway_secrets_file"),
                "cannot be set beside gateway_secrets_file: delete one of them",
            )
        )
    if (settings.image_source == "build") != (settings.build_context is not None):
        problems.append(
            (
                ("gateway_build_context", "gateway_image_source"),
                "is needed for gateway_image_source='build', and only there",
            )
        )
    if settings.image_source != "registry" and settings.registry_auth_file is not None:
        problems.append(
            (
                ("gateway_registry_auth_file", "gateway_image_source"),
                "is only for gateway_image_source='registry'",
            )
        )
    if settings.image_source != "archive" and settings.image_archive is not None:
        problems.append(
            (
                ("gateway_image_archive", "gateway_image_source"),
                "is only for gateway_image_source='archive'",
            )
        )
    if settings.image_source == "build" and (reference.tag or reference.digest):
        problems.append(
            (
                ("gateway_image", "gateway_image_source"),
                "must have no tag for gateway_image_source='build': the tag is the context's hash",
            )
        )
    if settings.network_mode == "host":
        problems += [
            (
                (f"gateway_{field}", "gateway_network_mode"),
                "has no effect with gateway_network_mode = 'host': the gateway itself listens, on "
                "gateway_container_port",
            )
            for field in ("port", "bind_address")
            if field in settings.model_fields_set
        ]
    if settings.is_open and not settings.open_to_network and not settings.is_in_place:
        where = "network_mode" if settings.network_mode == "host" else "bind_address"
        problems.append(
            (
                (f"gateway_{where}",),
                "lets other machines trade through the gateway, without authentication; if that is "
                "intended, set gateway_open_to_network = True and restrict the port by a firewall",
            )
        )
    problems += [
        (
            ("gateway_token_env", "gateway_token_file"),
            f"{name} cannot name a file whose name is not fixed: a variable for the directory ends "
            "with _DIR; another one may be in gateway_environment",
        )
        for name in settings.token_env
        if "token_env" in settings.model_fields_set and name not in settings.token_variables
    ]
    problems += [
        (("gateway_token_env",), f"may not be {name}, which has another meaning")
        for name in settings.token_env
        if name in RESERVED_ENVIRONMENT | DEFAULT_ENVIRONMENT
    ]
    problems += [
        (("gateway_environment",), f"may not set {name}: it follows from {source}")
        for name, source in settings.reserved.items()
        if name in settings.environment
    ]
    if settings.rollout_min_healthy_time >= settings.rollout_healthy_deadline:
        problems.append(
            (
                ("rollout_healthy_deadline", "rollout_min_healthy_time"),
                "must be longer than rollout_min_healthy_time",
            )
        )
    if "rollout_krx_hours" in settings.model_fields_set and settings.rollout_window != OUTSIDE_KRX:
        problems.append(
            (
                ("rollout_krx_hours", "rollout_window"),
                f'is only for rollout_window = "{OUTSIDE_KRX}"',
            )
        )
    if settings.adopt_container == f"{settings.project}-{SERVICE}-1":
        problems.append(
            (
                ("gateway_adopt_container", "gateway_project"),
                "is also the name of the new container: choose another gateway_project",
            )
        )
    if _nested(settings.token_dir, settings.app_dir):
        problems.append(
            (
                ("gateway_token_dir", "gateway_app_dir"),
                "and gateway_app_dir must not contain each other",
            )
        )
    return problems


def _place_problems(settings: Settings) -> list[tuple[tuple[str, ...], str]]:
    """Settings that are missing, or have no effect, by where the gateway is."""
    problems: list[tuple[tuple[str, ...], str]]
    if not settings.is_in_place:
        problems = [
            ((name,), "is missing")
            for name in REQUIRED
            if name.removeprefix("gateway_") not in settings.model_fields_set
        ]
        if settings.service:
            problems.append((("gateway_service",), "is only for a gateway in gateway_compose_file"))
        return problems
    problems = [
        (
            (alias(field), "gateway_compose_file"),
            "has no effect with gateway_compose_file, your own compose file: delete it here",
        )
        for field in NOT_IN_PLACE
        if field in settings.model_fields_set
    ]
    if not settings.service:
        problems.append((("gateway_service",), "is missing: the service in gateway_compose_file"))
    return problems


def _file_problems(settings: Settings) -> list[tuple[tuple[str, ...], str]]:
    """What is wrong with the files on the controller that the settings name; as `_relations`."""
    problems: list[tuple[tuple[str, ...], str]] = []
    env_file = [(("gateway_env_file",), problem) for problem in _env_file_problems(settings)]
    if settings.has_secrets_file or not env_file:
        problems += _credentials_problems(settings)
    problems += env_file
    problems += [
        (("gateway_compose_override",), problem) for problem in _override_problems(settings)
    ]
    if settings.image_source == "registry" and settings.image and settings.registry_auth_file:
        try:
            read_login(settings.image, settings.registry_auth_file)
        except ValueError as error:
            problems.append((("gateway_registry_auth_file",), str(error)))
    if settings.build_context and not (settings.build_context / "Dockerfile").is_file():
        problems.append((("gateway_build_context",), "has no Dockerfile"))
    if settings.image_source == "archive" and settings.image:
        try:
            find_image(settings.image, settings.image_archive)
        except ValueError as error:
            name = "gateway_image_archive" if settings.image_archive else "gateway_image"
            problems.append(((name,), str(error)))
    return problems


def _override_problems(settings: Settings) -> list[str]:
    if settings.compose_override is None:
        return []
    try:
        content = settings.override_content or b""
    except (OSError, ValueError) as error:
        return [f"cannot be read: {reason(error)}"]
    found = problems_in(content, SERVICE, settings.token_mount)
    return [f"{settings.compose_override}: {problem}" for problem in found]


def _credentials_problems(settings: Settings) -> list[tuple[tuple[str, ...], str]]:
    try:
        settings.credentials  # noqa: B018 - is cached
    except KeyError as error:
        if settings.has_secrets_file:
            return [(("gateway_app_key_field",), str(error.args[0]))]
        sources = [alias(field) for field in ("secrets_command", "env_file", "environment")]
        if not settings.variables:
            what = (
                "is missing: set it (or gateway_secrets_command), or set the app key as a variable "
                "of gateway_env_file or gateway_environment"
            )
            return [(("gateway_secrets_file", *sources), what)]
        what = f"{error.args[0]}; set it there, or set gateway_secrets_file"
        return [(("gateway_app_key_field", "gateway_secrets_file", *sources), what)]
    except ValueError as error:
        source = "secrets_file" if settings.secrets_file is not None else "secrets_command"
        return [((alias(source),), str(error))]
    return []


def _env_file_problems(settings: Settings) -> list[str]:
    try:
        names = settings.env_names
    except EnvFileError as error:
        return [f"{settings.env_file}, {error}"]
    except (OSError, ValueError) as error:
        return [f"cannot be read: {reason(error)}"]
    sources = dict.fromkeys(settings.environment, "gateway_environment sets it, too")
    sources |= {name: f"it follows from {what}" for name, what in settings.reserved.items()}
    return [
        f"{settings.env_file}, line {line}: may not set {name}: {sources[name]}"
        for name, line in names.items()
        if name in sources
    ]


def _collisions(
    fleet: Mapping[str, Mapping[str, Any]], valid: Mapping[str, Settings]
) -> list[Problem]:
    """Two names of one machine that have the same port, directory, project or container."""
    problems = []
    machines: dict[tuple[str, str], list[str]] = {}
    for name in valid:
        machines.setdefault(_machine(name, fleet[name]), []).append(name)
    pairs = (pair for names in machines.values() for pair in itertools.combinations(names, 2))
    for one, two in pairs:
        first, second = valid[one], valid[two]
        taken = [
            alias(field)
            for field in ("project", "app_dir", "token_dir", "adopt_container")
            if getattr(first, field)
            and getattr(first, field) == getattr(second, field)
            and not (field == "project" and (first.is_in_place or second.is_in_place))
        ]
        if first.is_in_place and _place_of(first) == _place_of(second):
            taken.append("gateway_service")
        if first.published_port == second.published_port and _overlap(first, second):
            host_mode = second.network_mode == "host"
            taken.append("gateway_container_port" if host_mode else "gateway_port")
        problems += [(two, name, f"is the same as {one}'s, on the same machine") for name in taken]
        problems += [
            (two, alias(field), f"and {one}'s {alias(other)} contain each other")
            for field in ("token_dir", "app_dir")
            for other in ("token_dir", "app_dir")
            if getattr(second, field) != getattr(first, other)
            and _nested(getattr(second, field), getattr(first, other))
        ]
    return problems


def _place_of(settings: Settings) -> tuple[str | None, str | None]:
    return settings.compose_file, settings.service


def _nested(one: str, other: str) -> bool:
    return Path(one).is_relative_to(other) or Path(other).is_relative_to(one)


def _differing_rollouts(valid: Mapping[str, Settings]) -> list[Problem]:
    """Rollout settings that differ between hosts, compared with the first host's."""
    if not valid:
        return []
    name, first = next(iter(valid.items()))
    return [
        (other, field, f"differs from {name}'s; it must be the same for the whole inventory")
        for other, settings in valid.items()
        for field in (
            *("rollout_batches", "rollout_revert", "rollout_share_token", "rollout_after"),
            *("rollout_window", "rollout_krx_hours"),
        )
        if getattr(settings, field) != getattr(first, field)
    ]


def _machine(name: str, data: Mapping[str, Any]) -> tuple[str, str]:
    return data.get("ssh_hostname") or name, str(data.get("ssh_port") or 22)


def _overlap(first: Settings, second: Settings) -> bool:
    # In host mode a gateway may listen on every address, IPv6 included.
    if "host" in (first.network_mode, second.network_mode):
        return True
    one, other = ip_address(first.bind_address), ip_address(second.bind_address)
    is_anywhere = one.is_unspecified or other.is_unspecified
    return one == other or (one.version == other.version and is_anywhere)
