"""The token files of one gateway, and the tokens that this package keeps of it."""

from __future__ import annotations

import json
import os
import re
import time
from binascii import a2b_base64, b2a_base64
from datetime import datetime
from stat import S_ISREG

from .directory import Directory, make_token_dir
from .tokens import FILE_LIMIT, KOREA, examine, expiry_of, is_id, merged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .tokens import Evidence

FILES_LIMIT = 64
"""Maximum number of token files of one gateway that are read; of more, the newest."""

PARKED_LIMIT = 2 * FILES_LIMIT * FILE_LIMIT

OURS = re.compile(r".*\.(damaged|aside|new|old|of-[0-9a-f]{12})-\d{8}-\d{6}x*|\..*\.[0-9a-f]{16}")
"""The names of files that this package has set aside, or is writing."""

DATE = re.compile(r"\{date:([^{}]*)\}")
DIGITS = {"%Y": r"\d{4}", "%m": r"\d\d", "%d": r"\d\d", "%y": r"\d\d", "%j": r"\d{3}"}


class TokenFiles:
    """Which files of a directory hold tokens, as `gateway_token_file` says.

    `form`: a name; a pattern with `*` and `?`; a name with a date, such as `KIS{date:%Y%m%d}`; or
    None for every file, also in subdirectories. A date is Korean: KIS's own sample code uses the
    time of its machine.
    """

    def __init__(self, form: str | None) -> None:
        self.form = form
        self.has_date = form is not None and DATE.search(form) is not None
        self.is_one = form is not None and not self.has_date and not re.search("[*?]", form)
        self.pattern = re.compile(self._pattern(form or "*"))

    def _pattern(self, form: str) -> str:
        if self.has_date:
            before, date, after = DATE.split(form)
            digits = re.sub("%.", lambda code: DIGITS[code[0]], re.escape(date))
            return re.escape(before) + digits + re.escape(after)
        parts = re.split(r"([*?])", form)
        wild = {"*": "[^/]*", "?": "[^/]"}
        return "".join(wild.get(part, re.escape(part)) for part in parts)

    def path(self, token_dir: str) -> str:
        """The path of the token file, or what stands for it in messages."""
        return token_dir if self.form is None else f"{token_dir}/{self.form}"

    def holds(self, path: str) -> bool:
        """Whether a file of this name, which may be in a subdirectory, is a token file."""
        directory, _, name = path.rpartition("/")
        if directory and (self.form is not None or "/" in directory):
            return False
        return self.pattern.fullmatch(name) is not None and OURS.fullmatch(name) is None

    def names(self, directory: Directory) -> list[str]:
        """The token files that are there, the newest first; of several only regular files."""
        if self.is_one:
            return [str(self.form)] if directory.stat(str(self.form)) else []
        found = [name for name in directory.names(deep=self.form is None) if self.holds(name)]
        entries = {name: at for name in found if (at := directory.stat(name))}
        times = {name: at.st_mtime for name, at in entries.items() if S_ISREG(at.st_mode)}
        return sorted(times, key=lambda name: (-times[name], name))[:FILES_LIMIT]

    def next_names(self, directory: Directory) -> list[str]:
        """Those that the gateway reads at its next start."""
        if not self.has_date:
            return self.names(directory)
        name = DATE.sub(lambda date: f"{datetime.now(KOREA):{date[1]}}", str(self.form))
        return [name] if directory.stat(name) else []

    def examine(self, directory: Directory, names: Iterable[str]) -> Evidence | None:
        """What these files show together; None if there is none."""
        return self.together(found for name in names if (found := directory.examine(name)))

    def together(self, found: Iterable[Evidence]) -> Evidence | None:
        """Of a gateway that may keep other files beside its tokens, damaged files do not count."""
        return merged([each for each in found if self.form or each.state != "damaged"])

    def pack(self, files: dict[str, bytes]) -> bytes:
        """Token files as one: the content of a single one, or JSON with all of them in base64."""
        if self.is_one:
            return files[str(self.form)]
        packed = {name: b2a_base64(each, newline=False).decode() for name, each in files.items()}
        return json.dumps({"files": packed}).encode()

    def unpack(self, content: bytes | None) -> dict[str, bytes]:
        """The token files that `pack` has packed; empty if it is nothing of that form."""
        if not content:
            return {}
        if self.is_one:
            return {str(self.form): content}
        try:
            packed = json.loads(content)["files"]
            files = {name: a2b_base64(each) for name, each in packed.items() if self.holds(name)}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}
        small = {name: each for name, each in files.items() if len(each) <= FILE_LIMIT}
        return dict(list(small.items())[:FILES_LIMIT])


def later(files: dict[str, bytes], others: dict[str, bytes]) -> dict[str, bytes]:
    """Of two sets of token files, for each name the one that expires later."""
    return files | {
        name: content
        for name, content in others.items()
        if name not in files or _ends(content) > _ends(files[name])
    }


def _ends(content: bytes) -> int:
    return examine(content).valid_until or 0


def kept_fingerprint(app_dir: str, token_path: str) -> str | None:
    """The fingerprint of the token file's app key as this package stored it, or None."""
    try:
        with Directory(f"{app_dir}/tokens") as kept:
            line = (kept.read("whose") or b"").decode("utf-8", "replace").rstrip("\n")
    except OSError:
        return None
    key, _, path = line.partition(" ")
    return key if is_id(key) and path == token_path else None


class Kept:
    """What this package stores about tokens in `APP_DIR/tokens`, where only root can write.

    `whose` contains the fingerprint of the app key of the token file, and the file's path. A parked
    token has the fingerprint of its app key as its name: it is of another key, or was donated for
    the next gateway of that key. `expected`: how many valid tokens a gateway needs.
    """

    def __init__(self, app_dir: str, token_dir: str, form: str | None, expected: int = 1) -> None:
        self.app_dir, self.token_dir = app_dir, token_dir
        self.files, self.expected = TokenFiles(form), expected
        self.path = self.files.path(token_dir)
        os.makedirs(f"{app_dir}/tokens", 0o700, exist_ok=True)

    def best(self, key: str) -> tuple[str, int]:
        """What the next gateway of `key` finds: the state of its token files, and their expiry.

        The state is that of `Evidence`, or `missing`; the expiry is 0 if it is unknown.
        """
        found = self._found()
        state, ends = "missing", 0
        if found and (found.state == "damaged" or self.whose(found) not in (None, key)):
            state, found = found.state if found.state == "damaged" else "missing", None
        if found:
            state, ends = found.state, expiry_of(found, self.expected)
        parked = self.files.together(map(examine, self.parked(key).values()))
        brought = expiry_of(parked, self.expected)
        if (not self.files.is_one or _may_replace(found)) and brought > ends:
            state, ends = "token", brought
        return state, ends

    def bring(self, files: dict[str, bytes], key: str) -> bool:
        """Parks token files for the next gateway of their key; False if they are not needed there.

        They must be valid, and expire later than those that are already there.
        """
        found = self.files.together(map(examine, files.values()))
        if found is None or not found.valid_until or found.valid_until <= time.time():
            return False
        key = found.whose or key
        there = self.best(key)[1]
        if there and expiry_of(found, self.expected) <= there:
            return False
        with Directory(f"{self.app_dir}/tokens") as kept:
            kept.write(key, self.files.pack(later(files, self.parked(key))), (0, 0))
        return True

    def ready(self, key: str, owner: tuple[int, int]) -> list[str]:
        """Puts the token of `key` into the token directory. No gateway may run meanwhile.

        Damaged files are set aside, another key's token is parked: no token is lost. Returns
        messages that say what was done.
        """
        said = []
        make_token_dir(self.token_dir)
        with Directory(self.token_dir) as directory, Directory(f"{self.app_dir}/tokens") as kept:
            names = self.files.next_names(directory)
            for name in names if self.files.form else ():
                if (found := directory.examine(name)) and found.state == "damaged":
                    aside = directory.set_aside(name, "damaged")
                    said.append(
                        f"the token file is damaged and was set aside: {self.token_dir}/{aside}"
                    )
            whose = self.whose(self.files.examine(directory, self.files.names(directory)))
            if whose not in (None, key):
                said += self._park(directory, kept, str(whose))
            parked = self.parked(key)
            if self._put(directory, parked, owner):
                kept.remove(key)
            directory.own(owner, self.files.holds, deep=self.files.form is None)
            line = f"{key} {self.path}\n".encode()
            if kept.read("whose") != line:
                kept.write("whose", line, (0, 0))
        return said

    def _put(self, directory: Directory, parked: dict[str, bytes], owner: tuple[int, int]) -> bool:
        """Puts parked token files that expire later than those that are there; whether any did."""
        has_put = False
        for name, content in parked.items():
            found = directory.examine(name)
            ends = found.valid_until or 0 if found else 0
            if _ends(content) > ends and _may_replace(found):
                directory.write(name, content, owner)
                has_put = True
        return has_put

    def set_old_aside(self, key: str) -> list[list[str]]:
        """Sets aside the tokens of `key`, also a parked one; the names of the files, old and new.

        Of a gateway that may keep other files beside its tokens, only files with tokens.
        """
        aside = []
        with Directory(self.token_dir) as directory, Directory(f"{self.app_dir}/tokens") as kept:
            for name in self.files.next_names(directory):
                found = directory.examine(name)
                if self.files.form or (found and found.state == "token"):
                    aside.append([name, directory.set_aside(name, "old")])
            if kept.stat(key):
                kept.set_aside(key, "old")
        return aside

    def whose(self, found: Evidence | None) -> str | None:
        """The fingerprint of the app key of the token files, if that is known."""
        if found is None:
            return None
        return found.whose or kept_fingerprint(self.app_dir, self.path)

    def _park(self, directory: Directory, kept: Directory, whose: str) -> list[str]:
        """Parks the token files of another app key, unless its parked ones expire later."""
        files, said, there = {}, [], self.parked(whose)
        for name in self.files.names(directory):
            content = directory.read(name)
            if self.files.form is None and examine(content or b"").state != "token":
                continue  # it may be anything
            if content is None or (name in there and _ends(there[name]) > _ends(content)):
                aside = directory.set_aside(name, f"of-{whose}")
                said.append(f"the token of another app key is set aside: {self.token_dir}/{aside}")
            else:
                files[name] = content
        if files:
            kept.write(whose, self.files.pack(there | files), (0, 0))
            for name in files:
                directory.remove(name)
            said.append(f"the token of another app key is parked: {self.app_dir}/tokens/{whose}")
        return said

    def parked(self, key: str) -> dict[str, bytes]:
        """The content of the parked token files of a key, by name."""
        with Directory(f"{self.app_dir}/tokens") as kept:
            return self.files.unpack(kept.read(key, PARKED_LIMIT))

    def _found(self) -> Evidence | None:
        try:
            with Directory(self.token_dir) as directory:
                return self.files.examine(directory, self.files.next_names(directory))
        except OSError:
            return None


def _may_replace(found: Evidence | None) -> bool:
    """Whether a parked token may take the place of a token file.

    A file of unknown form, or with several tokens, has more than the one that would replace it.
    """
    return found is None or (found.state == "token" and len(found.tokens or ()) < 2)
