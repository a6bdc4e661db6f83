"""What every host of the running pyinfra inventory shall become. Touches none of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from threading import Lock

import click
from jinja2 import TemplateError
from pyinfra.api.exceptions import PyinfraError
from pyinfra.context import inventory
from pyinfra_cli.exceptions import CliError

from kis_gateway_deploy.registry import NoDigestError, find_digest
from kis_gateway_deploy.release import Release, make_release
from kis_gateway_deploy.settings import Settings, SettingsError, validate_fleet

# Hosts are prepared side by side; the first one that asks does the work for all.
_one_at_a_time = Lock()


class Refused(CliError, PyinfraError):  # type: ignore[misc]
    """Raised by a deploy file: ends the run with a message and exit status 1, no traceback.

    pyinfra lets a PyinfraError out of a deploy file as it is, and its command line shows a
    CliError as it is: it has to be both.
    """

    def show(self, file: object = None) -> None:  # noqa: ARG002 - click's signature
        click.echo(f"{click.style('--> Refused:', 'red', bold=True)} {self.message}", err=True)


def fleet() -> dict[str, tuple[Settings, Release]]:
    """Settings and release of every host of the inventory; unpinned where there is no digest.

    Raises:
        Refused: something is wrong with any of them.
    """
    with _one_at_a_time:
        return _fleet()


@cache
def _fleet() -> dict[str, tuple[Settings, Release]]:
    try:
        settings = validate_fleet({each.name: each.data.dict() for each in inventory})
    except SettingsError as error:
        raise Refused(str(error)) from None
    try:
        return {
            name: (each, make_release(each, digest=digest if isinstance(digest, str) else ""))
            for name, each in settings.items()
            for digest in [_digest(each)]
        }
    except (OSError, ValueError, KeyError, TemplateError) as error:
        raise Refused(f"no host was touched: the release cannot be made: {error}") from None


def no_digest(settings: Settings) -> NoDigestError | None:
    """Why the registry did not say what the image is now; None where it did, or was not asked."""
    digest = _digest(settings)
    return digest if isinstance(digest, NoDigestError) else None


def _digest(settings: Settings) -> str | NoDigestError:
    if settings.image_source != "registry" or "@" in settings.image:
        return ""
    return _ask_registry(settings.image, settings.registry_auth_file)


@cache
def _ask_registry(image: str, auth_file: Path | None) -> str | NoDigestError:
    try:
        return find_digest(image, auth_file)
    except NoDigestError as error:
        return error


def wanted(name: str) -> tuple[Settings, Release]:
    """Settings and release of one host, by its name in the inventory.

    Raises:
        Refused, KeyError: as `fleet`; the inventory has no such host.
    """
    return fleet()[name]
