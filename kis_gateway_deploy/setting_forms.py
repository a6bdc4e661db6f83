"""The forms of single settings: pydantic types, each with a message that says what is right."""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
)

from kis_gateway_deploy.windows import OUTSIDE_KRX, WINDOW_FORM, outside_krx, weekly

SIMULATOR_LABEL = "kis-simulator"  # the label of the simulator's container
A_DAY = 24 * 3600
SECRETS_TARGET = "/app/config/secrets.json"


def _absolute(path: str) -> str:
    path = path.rstrip("/")
    parts = path.split("/")[1:]
    if not re.fullmatch(r"/[^\0\r\n:]+", path) or {"", ".", ".."} & set(parts):
        raise ValueError("must be an absolute path without `.`, `..`, `//`, `:` or line breaks")
    return path


# Root gives the directory to the container's user, or their content is lost at a reboot.
SYSTEM_DIRECTORIES = {
    *("/bin", "/boot", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/root"),
    *("/sbin", "/srv", "/usr", "/usr/local", "/var", "/var/lib", "/var/lib/docker", "/var/log"),
    *("/tmp", "/var/tmp"),  # noqa: S108 - compared, never used
}
NOT_BELOW = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys"),
    *("/usr", "/var/lib/docker", "/var/run"),
)


def _host_directory(path: str) -> str:
    """An absolute path that can be a directory of this package alone."""
    path = _absolute(path)
    if path in SYSTEM_DIRECTORIES or any(f"{path}/".startswith(f"{top}/") for top in NOT_BELOW):
        raise ValueError("must be a directory of its own, not one of the system's")
    if "\\" in path:
        raise ValueError("must be a path without backslashes")
    return path


def _user(user: str) -> str:
    if not re.fullmatch("[0-9]{1,9}:[0-9]{1,9}", user, re.ASCII):
        raise ValueError("must be `uid:gid` in numbers, for example `10001:10001`")
    return ":".join(str(int(number)) for number in user.split(":"))


def _matching(pattern: str, must_be: str) -> AfterValidator:
    """A check whose message does not repeat the value."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(f"must be {must_be}")
        return text

    return AfterValidator(check)


def _text(value: Any) -> str:
    """Environment and label values as the strings that compose hands to the container."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        text = str(value)
        if "\0" in text:
            raise ValueError("cannot hold a NUL character")
        return text
    raise ValueError("must be a string or a number")


def _address(address: str) -> str:
    """The address as the kernel and Docker print it."""
    try:
        found = ip_address(address)
    except ValueError:  # its message repeats the value
        raise ValueError(
            "must be an IPv4 or IPv6 address without brackets and port, for example `127.0.0.1` "
            "or `::1`"
        ) from None
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped:
            raise ValueError("is an IPv4 address in IPv6 form: write it as `127.0.0.1`")
        if found.is_link_local:
            raise ValueError(
                "is an address of one link (fe80::/10), on which Docker cannot publish: use `::1`, "
                "`::` or a global or unique local address (fc00::/7) of the host"
            )
        if found.scope_id is not None:
            raise ValueError("cannot have an interface (`%`): Docker publishes on addresses only")
    return str(found)


def _health_path(path: str) -> str:
    if not re.fullmatch(r"/[!-~]*", path):
        raise ValueError("must be a path in ASCII without blanks, for example `/health`")
    return path


def _mount(path: str) -> str:
    path = _absolute(path)
    if path in {"/", "/tmp"} or f"{SECRETS_TARGET}/".startswith(f"{path}/"):  # noqa: S108
        raise ValueError("must be another directory than `/`, `/tmp` and that of the secrets file")
    return path


def _token_file(form: str) -> str:
    """A file name, which may hold `*` and `?`, or one date."""
    name = re.sub(r"\{date:(%[Ymdyj]|[._-])+\}", "20270101", form, count=1)
    if not re.fullmatch(r"\.?[A-Za-z0-9*?][A-Za-z0-9._*?-]*", name, re.ASCII) or (
        name != form and {*"*?"} & {*form}
    ):
        raise ValueError(
            "must be a plain file name (`kis_token.json`), a pattern (`token_real_*.json`), a name "
            "with a date (`KIS{date:%Y%m%d}`), or None for every file"
        )
    return form


def _names(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return (value,) if value else ()
    return tuple(value) if isinstance(value, list) else value


def _batch_sizes(sizes: Any) -> Any:
    percentage = re.compile("([1-9][0-9]?|100)%")
    if isinstance(sizes, list) and all(
        size >= 1 if type(size) is int else percentage.fullmatch(str(size)) for size in sizes
    ):
        return sizes or [1]
    raise ValueError('must be a list of counts and percentages, such as [1, "25%", "100%"]')


def _window(window: Any) -> Any:
    if isinstance(window, list):
        weekly(window)
    elif window not in (None, OUTSIDE_KRX):
        raise ValueError(WINDOW_FORM)
    return window


def _krx_hours(hours: str) -> str:
    outside_krx(hours)
    return hours


def _label(name: str) -> str:
    if name.startswith("com.docker."):
        raise ValueError("`com.docker.` labels are Docker's own")
    if name == SIMULATOR_LABEL:
        raise ValueError(f"`{SIMULATOR_LABEL}` is the simulator's own label")
    return name


AbsolutePath = Annotated[str, AfterValidator(_absolute)]
HostDirectory = Annotated[str, AfterValidator(_host_directory)]
User = Annotated[str, AfterValidator(_user)]
TokenFile = Annotated[str, AfterValidator(_token_file)]
Project = Annotated[
    str,
    _matching(
        "[a-z0-9][a-z0-9_-]*", "a compose project name: lower case letters, digits, `_`, `-`"
    ),
]
ContainerName = Annotated[
    str, _matching("[A-Za-z0-9][A-Za-z0-9_.-]*", "a container's name, for example `kis-gateway`")
]
ServiceName = Annotated[
    str, _matching("[A-Za-z0-9][A-Za-z0-9_.-]*", "a service's name, for example `kis-gateway`")
]
ImageName = Annotated[
    str,
    _matching(
        r"[A-Za-z0-9][\w.\-:/@]*", "an image reference, for example `registry.example/kis:1.4`"
    ),
]
Text = Annotated[str, BeforeValidator(_text)]
Port = Annotated[int, Field(ge=1, le=65535, strict=True)]
Number = Annotated[float, Field(allow_inf_nan=False)]
BatchSizes = Annotated[list[int | str], BeforeValidator(_batch_sizes)]
RolloutWindow = Annotated[Literal["outside-krx"] | list[str] | None, BeforeValidator(_window)]
KrxHours = Annotated[str, AfterValidator(_krx_hours)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Label = Annotated[str, AfterValidator(_label)]
Word = Annotated[str, StringConstraints(strict=True, pattern=r"^[^\x00]+$")]
Command = Annotated[list[Word], Field(min_length=1)]
Address = Annotated[str, AfterValidator(_address)]
HealthPath = Annotated[str, AfterValidator(_health_path)]
TokenMount = Annotated[str, AfterValidator(_mount)]
Names = Annotated[tuple[Name, ...], BeforeValidator(_names)]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")]
HeaderValue = Annotated[str, Field(pattern=r"^[ -~]*$")]


class Probe(BaseModel):
    """One request whose answer shows whether KIS accepts the token."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    path: HealthPath
    method: Literal["GET", "POST"] = "GET"
    headers: dict[HeaderName, HeaderValue] = {}
    body: JsonValue = None
    expect: Annotated[int, Field(ge=100, le=599, strict=True)] | dict[str, JsonValue] = 200
