"""Hides secrets in a gateway's log: values of secrets and env files, of variables, and tokens."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from itertools import islice

from .directory import Directory
from .releases import release_dir, text_of
from .token_files import TokenFiles
from .tokens import JWTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

HIDDEN = "(hidden)"
SHORTEST = 8
"""The least length of a value that is hidden; shorter ones are in other words, too."""

TOKEN = re.compile(r"eyJ[A-Za-z0-9_-]{2,}(\.[A-Za-z0-9_.-]{4,})?")
"""A JWT, if it has the group. Without it, the match is what no JWT begins in: it is not searched
again, so that a log of `eyJeyJeyJ` takes linear time."""


def hide(text: str, hidden: set[str]) -> str:
    """The text without the strings in `hidden`, and without any JWT."""
    for secret in sorted(hidden, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return TOKEN.sub(lambda found: HIDDEN if found[1] else found[0], text)


def secrets_of(app_dir: str, releases: Iterable[str], details: dict[str, Any]) -> set[str]:
    """The values of the releases' secrets and env files, and of the container's variables."""
    found: set[str] = set()
    for release in releases:
        for name in ("secrets.json", "gateway.env"):
            found |= values_of(text_of(f"{release_dir(app_dir, release)}/{name}"))
    variables = (details.get("Config") or {}).get("Env") or []
    values = {variable.partition("=")[2] for variable in variables}
    found |= {value for value in values if not HARMLESS.fullmatch(value)}
    lines = (line.strip() for value in found for line in value.splitlines())
    return {value for value in found.union(lines) if len(value) >= SHORTEST}


def tokens_in(token_dir: str, form: str | None) -> set[str]:
    """The tokens of now, as they are in the token files.

    A JWT is not among them: it is read without its signature, and `hide` knows it by its form.
    """
    files, evidence = TokenFiles(form), None
    with suppress(OSError), Directory(token_dir) as directory:
        evidence = files.examine(directory, files.names(directory))
    tokens = (evidence.tokens if evidence else None) or ()
    # No gateway has so many; a hostile one makes the search of its log slow with them.
    texts = {token.decode("utf-8", "replace") for token in islice(tokens, 2 * JWTS)}
    return {each for each in texts if len(each) >= SHORTEST and not each.startswith("eyJ")}


NAME = re.compile(r"""\s*(-\s+)*(export\s+)?["']?[\w.-]+["']?\s*(=|:(?=\s|$))""")
# Paths and addresses that a log needs to be understood; as in `plan`.
HARMLESS = re.compile(
    r"\.{0,2}(/[A-Za-z0-9._-]{1,32}){1,12}/?"
    r"|[a-z][a-z0-9+.-]{0,15}://[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?/?"
)


def values_of(text: str) -> set[str]:
    """The values in JSON; in YAML or an env file, what follows a name on its line, and its words.

    The host has no YAML.
    """
    try:
        open_ends = [json.loads(text)]
    except (ValueError, RecursionError):
        values = [NAME.sub("", line, count=1) for line in text.splitlines()]
        words = (re.split(r"""[\s"',\[\]{}]+""", value) for value in values)
        return {value.strip("\"' \t") for value in values}.union(*words)
    found: set[str] = set()
    while open_ends:
        value = open_ends.pop()
        if isinstance(value, (dict, list)):
            open_ends += value.values() if isinstance(value, dict) else value
        else:
            found.add(str(value))
    return found
