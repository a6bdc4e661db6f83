"""Where the token is in the container, and where it is to be."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from kis_gateway_deploy.adopted_inventory.draft import NAME, Draft, why_not
from kis_gateway_deploy.description import TokenFile
from kis_gateway_deploy.host.containers import DEFAULT_TOKEN_PATH
from kis_gateway_deploy.host.tokens import KOREA
from kis_gateway_deploy.reading import escaped
from kis_gateway_deploy.settings import DEFAULT_ENVIRONMENT, RESERVED_ENVIRONMENT, Settings

HEX = re.compile("[0-9a-f]{32,}", re.I)
DATE = re.compile(r"(?<!\d)\d{8}(?!\d)")


@dataclass
class TokenPlace:
    """What is known and decided of the token.

    `path`: of the best token file in the container, empty if none is known; `adopted`: the same,
    or its directory if all its files are taken over; `mount`: the directory in the new container;
    `is_moved`: whether it is another one than in the old container; `variables` name it;
    `working_dir`: what the new container needs, if not empty; `settings`: those of the token.
    """

    path: str = ""
    adopted: str = ""
    mount: str = Settings.model_fields["token_mount"].default
    is_moved: bool = False
    variables: list[str] = field(default_factory=list)
    working_dir: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


def place_token(draft: Draft) -> TokenPlace:
    """Where the token is in the container, and where it is to be."""
    found, place = draft.found, TokenPlace()
    named = [
        path
        for name, value in found.variables.items()
        if re.search("TOKEN.*(FILE|PATH)", name) and "/" in value
        for path in [draft.absolute(value)]
    ]
    tokens = [each for each in found.tokens if each.state == "token"]
    if tokens:
        best = max(tokens, key=lambda each: each.expiries[-1:])
        if not best.valid(draft.clock):
            draft.note(f"the token in {best.path} has expired: the new container asks KIS for one")
        _decide(draft, place, best, [each for each in tokens if each.directory == best.directory])
        _note_others(draft, best, tokens)
        return place
    unknown = next((each for each in found.tokens if each.path in named), None)
    what = (
        f"the file {unknown.path} has no token that this package can read"
        if unknown
        else "no token was found in the container"
    )
    draft.note(
        f"{what}: if it has one elsewhere, set gateway_adopt_token_path; if it keeps it in "
        'memory or a database, set gateway_token_store = "external"; to let the new '
        "container ask KIS for one, set gateway_adopt_without_token = True"
    )
    if not unknown and named and named[0] != "/":  # a file that is not there yet
        unknown = TokenFile(path=named[0], state="unknown")
    if unknown:
        _decide(draft, place, unknown, [unknown])
    return place


def _note_others(draft: Draft, best: TokenFile, tokens: list[TokenFile]) -> None:
    elsewhere = [
        each.path for each in tokens if each.directory != best.directory and each.valid(draft.clock)
    ]
    if elsewhere:
        draft.note(
            f"there are valid tokens in other places, too: {', '.join(elsewhere)}; only those "
            f"in {best.directory} are kept"
        )


def _decide(draft: Draft, place: TokenPlace, best: TokenFile, files: list[TokenFile]) -> None:
    """Fills the place; its `settings` stay empty if a decision is left to the operator."""
    valid = [each for each in files if each.valid(draft.clock)] or [best]
    forms = {_form(each.name, draft.clock) for each in valid}
    form = forms.pop() if len(forms) == 1 else None
    if len(valid) > 1 and form == best.name:
        form = None
    place.path = place.adopted = best.path
    is_one = form == best.name
    if why_not("gateway_token_file", form):
        draft.note(f"gateway_token_file: {best.name!r} cannot be used: choose another name")
        return
    place.variables = _names_of(draft, best, is_one)
    if best.alone and not why_not("gateway_token_mount", best.directory):
        place.mount = best.directory
    elif not _can_move(draft, place, best):
        return
    adopted = best.path if is_one else best.directory
    if why := why_not("gateway_adopt_token_path", adopted):
        draft.note(
            f"gateway_adopt_token_path: {adopted!r} cannot be used: {why}. Let the gateway "
            "keep its tokens in a directory of their own"
        )
        return
    place.adopted, place.is_moved = adopted, place.mount != best.directory
    place.settings = {
        "gateway_token_mount": place.mount,
        "gateway_token_file": form,
        "gateway_token_env": place.variables or None,
    }
    expected = sum(each.valid(draft.clock) for each in valid)
    if expected > 1:
        place.settings["gateway_tokens_expected"] = min(expected, 20)


def _can_move(draft: Draft, place: TokenPlace, best: TokenFile) -> bool:
    """Whether the token can be in another directory, because the old one has other files."""
    why = (
        f"a mount at {best.directory} would hide the other files of that directory"
        if not best.alone
        else f"{best.directory} cannot be a mount"
    )
    if place.variables:
        names = ", ".join(place.variables)
        draft.comments["gateway_token_mount"] = escaped(f"{why}: {names} will name this one")
        return True
    if _can_change_directory(draft, best):
        place.working_dir = place.mount
        draft.comments["gateway_token_mount"] = escaped(
            f"{why}: this will be the working directory"
        )
        return True
    draft.note(
        f"{why}, and no variable names the token file: the new container would not find its "
        "token. Let the gateway keep it in a directory of its own, then set "
        "gateway_token_mount, gateway_token_file and gateway_token_env"
    )
    return False


def _can_change_directory(draft: Draft, best: TokenFile) -> bool:
    """Whether only the token depends on the working directory: the program is absolute."""
    found = draft.found
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


def _names_of(draft: Draft, best: TokenFile, is_one: bool) -> list[str]:
    """The variables that name the token file, or end with `_DIR` and name its directory."""
    taken = RESERVED_ENVIRONMENT | DEFAULT_ENVIRONMENT
    names = []
    for name, value in draft.found.variables.items():
        path = draft.absolute(value)
        is_named = path == best.directory if name.endswith("_DIR") else is_one and path == best.path
        if value and is_named and NAME.fullmatch(name) and name not in taken:
            names.append(name)
    if best.path == DEFAULT_TOKEN_PATH and not names:
        names = ["KIS_TOKEN_FILE_PATH"]  # whose default this path is
    return names


def _form(name: str, clock: int) -> str:
    """A token file's name as `gateway_token_file`: with its date or hash as a pattern."""
    if found := DATE.search(name):
        today = datetime.fromtimestamp(clock, KOREA)
        days = [f"{today - timedelta(days=number):%Y%m%d}" for number in (-1, 0, 1, 2)]
        if found[0] in days:
            return f"{name[: found.start()]}{{date:%Y%m%d}}{name[found.end() :]}"
    return HEX.sub("*", name)
