"""The gateway's settings, from the environment and the secrets file."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

log = logging.getLogger(__name__)


class ConfigurationError(Exception):
    """The gateway cannot run with these settings; the message is one line for the operator."""


@dataclass(frozen=True)
class KisEnvironment:
    """What differs between KIS's real and paper trading."""

    base_url: str
    field_prefix: str
    requests_per_second: int
    """KIS's limit per app key since April 2026; new customers have a lower one (3)."""


ENVIRONMENTS = {
    "real": KisEnvironment("https://openapi.koreainvestment.com:9443", "kis-r", 18),
    "paper": KisEnvironment("https://openapivts.koreainvestment.com:29443", "kis-v", 1),
}


@dataclass(frozen=True)
class Settings:
    """The gateway's settings; `from_environ` names the source of each."""

    token_file: Path
    secrets_file: Path
    app_key_field: str
    app_secret_field: str
    app_key: str = field(repr=False)
    app_secret: str = field(repr=False)
    base_url: str
    requests_per_second: int

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Read ``KIS_TOKEN_FILE_PATH`` and ``SECRETS_FILE`` (both required), ``KIS_ENVIRONMENT``
        (``real``, the default, or ``paper``), ``KIS_BASE_URL`` and
        ``KIS_REQUESTS_PER_SECOND``.

        The secrets file is a flat JSON object that may hold other services' secrets too; the fields
        used are ``kis-r-app-key`` and ``kis-r-app-secret``, for paper ``kis-v-…``.

        Raises:
            ConfigurationError: for the first setting that is missing or wrong.
        """
        name = environ.get("KIS_ENVIRONMENT") or "real"
        if name not in ENVIRONMENTS:
            raise ConfigurationError(f"KIS_ENVIRONMENT must be real or paper, not {name!r}")
        kis = ENVIRONMENTS[name]
        secrets_file = _required_path(environ, "SECRETS_FILE")
        secrets = _read_secrets(secrets_file)
        app_key_field = f"{kis.field_prefix}-app-key"
        app_secret_field = f"{kis.field_prefix}-app-secret"
        return cls(
            token_file=_required_path(environ, "KIS_TOKEN_FILE_PATH"),
            secrets_file=secrets_file,
            app_key_field=app_key_field,
            app_secret_field=app_secret_field,
            app_key=_credential(secrets, app_key_field, secrets_file),
            app_secret=_credential(secrets, app_secret_field, secrets_file),
            base_url=_base_url("KIS_BASE_URL", environ.get("KIS_BASE_URL") or kis.base_url),
            requests_per_second=_positive_int(
                environ, "KIS_REQUESTS_PER_SECOND", kis.requests_per_second
            ),
        )


def _required_path(environ: Mapping[str, str], name: str) -> Path:
    value = environ.get(name)
    if not value:
        raise ConfigurationError(f"{name} is not set: give it the path of the file")
    return Path(value)


def _read_secrets(path: Path) -> Mapping[str, object]:
    try:
        secrets = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigurationError(f"SECRETS_FILE {path} does not exist: is it mounted?") from None
    except IsADirectoryError:
        raise ConfigurationError(
            f"SECRETS_FILE {path} is a directory. Docker creates one if the source of a mount is "
            "missing: replace it with the file on the host and re-create the container"
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"SECRETS_FILE {path} cannot be read by uid {os.getuid()}: {error.strerror}"
        ) from None
    except json.JSONDecodeError as error:
        raise ConfigurationError(
            f"SECRETS_FILE {path} is not JSON: {error.msg}, line {error.lineno}"
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"SECRETS_FILE {path} is not UTF-8 text") from None
    if not isinstance(secrets, dict):
        raise ConfigurationError(f"SECRETS_FILE {path} must hold a JSON object")
    return secrets


def _credential(secrets: Mapping[str, object], name: str, path: Path) -> str:
    """KIS rejects a secret with a trailing newline, so white space is stripped."""
    value = secrets.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(
            f"SECRETS_FILE {path} needs the field {name!r}, a non-empty string"
        )
    stripped = value.strip()
    if stripped != value:
        log.warning("Field %r of %s has white space around it, which is removed", name, path)
    if not re.fullmatch("[!-~]+", stripped):
        raise ConfigurationError(
            f"SECRETS_FILE {path}: the field {name!r} contains a blank or a character that no "
            "KIS credential has; copy it again from the KIS developers' site"
        )
    return stripped


def _base_url(name: str, url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path not in ("", "/"):
        raise ConfigurationError(f"{name} must look like https://host:port, not {url!r}")
    return url.rstrip("/")


def _positive_int(environ: Mapping[str, str], name: str, default: int) -> int:
    value = environ.get(name) or str(default)
    if not value.isascii() or not value.isdigit() or int(value) == 0:
        raise ConfigurationError(f"{name} must be a whole number from 1, not {value!r}")
    return int(value)
