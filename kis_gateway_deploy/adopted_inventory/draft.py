"""The settings of one container while they are collected."""

from __future__ import annotations

import posixpath
import re
from typing import Any

from pydantic import ValidationError

from kis_gateway_deploy.description import Container
from kis_gateway_deploy.reading import escaped
from kis_gateway_deploy.settings import Settings

NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
"""Of a variable that an env file, or `gateway_environment`, can set."""


class Draft:
    """The settings in the order in which they are written, with what is to be said of them.

    `clock`: the host's, epoch seconds; `stem`: the inventory's name without `.py`.
    """

    def __init__(self, found: Container, clock: int, stem: str) -> None:
        self.found, self.clock, self.stem = found, clock, stem
        self.data: dict[str, Any] = {}
        self.comments: dict[str, str] = {}
        self.notes: list[str] = []
        """What is to be decided by hand."""
        self.companions: dict[str, bytes] = {}
        self.env_names: list[str] = []
        if not found.user:
            self.note("gateway_user: the user of the container is unknown; set it as `uid:gid`")

    def note(self, text: str) -> None:
        self.notes.append(escaped(text))

    def put(self, name: str, value: Any, comment: str = "") -> bool:
        """Sets a setting if it can have this value, which is not secret; else notes why not."""
        if why := why_not(name, value):
            self.note(f"{name}: {value!r} cannot be used: {why}")
            return False
        self.data[name] = value
        if comment:
            self.comments[name] = escaped(comment)
        return True

    def put_beside(self, name: str, suffix: str, content: bytes) -> None:
        """Sets a setting to a file beside the inventory, with this content."""
        self.companions[suffix] = content
        self.data[name] = Beside(self.stem + suffix)

    def absolute(self, value: str) -> str:
        return posixpath.normpath(posixpath.join(self.found.working_dir, value))


class Beside:
    """A path beside the inventory, as its text names it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"_here / {self.name!r}"


def why_not(name: str, value: Any) -> str:
    """Why a setting cannot have this value; empty if it can."""
    try:
        Settings.model_validate({name: value})
    except ValidationError as error:
        return "; ".join(str(each["msg"]).removeprefix("Value error, ") for each in error.errors())
    return ""
