"""Token files: their forms, expiry and damage; and the tokens that this package parks.

A token file is only evidence: the gateway decides whether its own file can be used. The container's
user may put anything into the token directory. Therefore the directory is opened once, names are
looked up relative to its descriptor, and links are not followed.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
from binascii import a2b_base64
from collections import namedtuple
from datetime import datetime, timedelta, timezone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FILE_LIMIT = 64 * 1024
"""Maximum bytes read of a file; a larger file has an unknown form."""

ENTRIES_LIMIT = 1000
"""Maximum number of entries of a directory that are read; of more, the newest."""

MARGIN = 10 * 60
"""A gateway does not use a token that expires within this many seconds: its next start asks KIS."""

KOREA = timezone(timedelta(hours=9))

NOT_KNOWN = "not known"

Evidence = namedtuple(
    "Evidence",
    "state valid_until file_says whose tokens source expiries",
    defaults=(None, NOT_KNOWN, ()),
)
"""What a token file shows.

`state`: `token` (its expiry is known, and may be past), `damaged` (empty, no regular file, or
truncated JSON: no gateway can use it) or `unknown` (any other form, which is left alone).
`valid_until`: epoch second at which the last of its tokens expires, or None: for gate, status and
sharing. `file_says`: the expiry in the file's own field, None if missing or ambiguous: a gateway
uses it to decide whether to ask KIS; of several fields the earliest, None if one is ambiguous.
`whose`: the fingerprint of the app key, if the file names it. `tokens`: the set of its tokens (a
JWT without its signature), None if they are unknown; they are never shown. `source`: where
`valid_until` is from: `JWT exp`, the name of the file's field, or `not known`. `expiries`: the
known expiry of each token, sorted.
"""

DAMAGED = Evidence("damaged", None, None, None)
UNKNOWN = Evidence("unknown", None, None, None)


def examine(content: bytes) -> Evidence:
    """What the content of a token file shows; docs/token-forms.md lists the forms.

    The `exp` of a JWT counts before any field of the file: the file may overstate its expiry by six
    hours (KIS returns the same token for so long), or have a date without a time zone.
    """
    text = content.decode("utf-8-sig", "replace").strip(" \t\r\n\0")
    data = _parsed(text)
    if not text or data is TRUNCATED:
        return DAMAGED
    objects = _objects(data)
    found = _jwts(content)
    for fields in objects:
        for token in _named_tokens(fields):
            if not _jwts(token):
                found.setdefault(token, _expiry_beside(fields))
    ends = sorted((end, source) for end, source in found.values() if end)
    valid_until, source = ends[-1] if ends else (None, NOT_KNOWN)
    whose = data.get("app_key_fingerprint") if isinstance(data, dict) else None
    return Evidence(
        "token" if ends else "unknown",
        valid_until,
        _file_says(objects),
        whose if is_id(whose) else None,
        frozenset(found) or None,
        source,
        tuple(end for end, _ in ends),
    )


TRUNCATED = object()

ENDINGS = ("", "0", "00000", "rue", "ue", "e", "alse", "lse", "se", "ull", "ll", "l")
"""Of nothing, a number, a `\\u` escape, `true`, `false` and `null`."""


def _parsed(text: str) -> Any:
    """The data of JSON or flat YAML, `TRUNCATED`, or None for any other form."""
    if text[:1] not in ("{", "["):
        return _flat_yaml(text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return TRUNCATED if _is_truncated(text) else None


def _is_truncated(text: str) -> bool:
    """Whether the decoder reaches the end of the text without an error, and expects more there."""
    for ending in ENDINGS:
        try:
            json.loads(text + ending)
        except json.JSONDecodeError as error:
            if error.pos == len(text + ending) or error.msg.startswith("Unterminated string"):
                return True
        except (ValueError, RecursionError):  # a number is too long, or the nesting too deep
            pass
    return False


def _flat_yaml(text: str) -> dict[str, str]:
    """The fields of lines `name: value`, as KIS's official sample (kis_auth.py) writes them."""
    fields = {}
    for line in filter(None, text.splitlines()):
        found = re.fullmatch(r"([\w-]+): +(.*)", line)
        if not found or found[1] in fields:
            return {}
        fields[found[1]] = found[2].strip("'\" ")
    return fields


def _objects(data: Any) -> list[dict[str, Any]]:
    """Each JSON object at any depth: a file may have one for each account or app key."""
    found = [data]
    for each in found:  # grows meanwhile
        if isinstance(each, (dict, list)):
            found += each.values() if isinstance(each, dict) else each
    return [each for each in found if isinstance(each, dict)]


JWT = re.compile(rb"(eyJ[A-Za-z0-9_-]{2,256}\.[A-Za-z0-9_-]{4,4096})\.")
"""A JWT (RFC 7519) without its signature, whose end is not visible in SQLite. Header and claims
are bounded, so that hostile content is searched in linear time."""

JWTS = 200
"""Maximum number of JWTs of a file that are read: `FILE_LIMIT` holds fewer of KIS's."""

JWT_EXP = "JWT exp"


def is_id(text: object) -> bool:
    """Whether it has the form of an app key's fingerprint, which is also that of a release's id."""
    return isinstance(text, str) and re.fullmatch("[0-9a-f]{12}", text) is not None


def _jwts(content: bytes) -> dict[bytes, tuple[int | None, str]]:
    """Each JWT in any bytes (text, pickle, SQLite) that has an expiry, with the expiry's source."""
    tokens = JWT.findall(content)[-JWTS:]
    return {token: (end, JWT_EXP) for token in tokens if (end := _jwt_expiry(token))}


def _jwt_expiry(token: bytes) -> int | None:
    """`exp` (RFC 7519, 4.1.4) of the claims."""
    claims = token.split(b".")[1].translate(bytes.maketrans(b"-_", b"+/"))
    try:
        found = json.loads(a2b_base64(claims + b"=" * (-len(claims) % 4)))
    except (ValueError, RecursionError):
        return None
    return _seconds(found.get("exp")) if isinstance(found, dict) else None


KIS_FIELDS = ("access_token_token_expired", "valid-date")
"""KIS's own expiry: in its answer (KIS Developers, tokenP), and in its official sample's file."""

FIELDS = (
    *("expires_at", "expiresAt", "expired_at", "expiredAt", "expires_at_unix", "expire_time"),
    *("token_expires_at", "tokenExpiresAt", "token_expired_at", "token_expired", "token_exp"),
    *("expired_at_timestamp", "expiry", "exp"),
)
"""Names of the expiry in public projects' files. `expires_in` is not: KIS always says 86400."""


def _named_tokens(fields: dict[str, Any]) -> list[bytes]:
    values = [fields.get(name) for name in ("access_token", "accessToken", "token")]
    return [each.encode("utf-8", "replace") for each in values if each and isinstance(each, str)]


def _expiry_beside(fields: dict[str, Any]) -> tuple[int | None, str]:
    """The expiry of a token that is no JWT: KIS's own field is exact, a gateway's may overstate."""
    known = (each for each in _expiries(fields, KIS_FIELDS + FIELDS) if each[0])
    return next(known, (None, NOT_KNOWN))


def _file_says(objects: list[dict[str, Any]]) -> int | None:
    """The earliest expiry by the file's own fields: the gateway's, or else KIS's."""
    says = [each[0][0] for fields in objects if (each := _expiries(fields, FIELDS + KIS_FIELDS))]
    return min(end or 0 for end in says) or None if says else None


def _expiries(fields: dict[str, Any], names: tuple[str, ...]) -> list[tuple[int | None, str]]:
    return [(_moment(fields[name], name in KIS_FIELDS), name) for name in names if name in fields]


def _moment(value: object, in_korea: bool) -> int | None:
    """Epoch seconds of a number, or of a date with a time zone.

    `in_korea`: KIS's own dates have no zone and are Korean time (KIS Developers, tokenP). Any other
    date without a zone is ambiguous: Korean time or UTC.
    """
    if not isinstance(value, str):
        return _seconds(value)
    text = value.strip()
    if re.fullmatch(r"[0-9]{1,13}(\.[0-9]{0,20})?", text):
        return _seconds(float(text))
    if len(text) > 40:
        return None
    text = re.sub(r"^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)$", r"\1-\2-\3 \4:\5:\6", text)
    # Python 3.9 and 3.10 cannot parse `Z`, `+0900` and most fractions of a second.
    text = re.sub(r"[Zz]$", "+00:00", re.sub(r"\.\d+", "", text))
    try:
        moment = datetime.fromisoformat(re.sub(r"([+-]\d\d)(\d\d)$", r"\1:\2", text))
        if moment.tzinfo is None and in_korea and ":" in text:
            moment = moment.replace(tzinfo=KOREA)
        return None if moment.tzinfo is None else _seconds(moment.timestamp())
    except (ValueError, OverflowError):
        return None


def _seconds(value: object) -> int | None:
    """A number as epoch seconds; 13 digits are milliseconds. None if it can be neither."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if 10**12 <= value < 10**13:
        value /= 1000
    return int(value) if 0 < value < 10**11 else None


READ_ONLY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


def _chown(descriptor: int, owner: tuple[int, int]) -> None:
    if os.geteuid() == 0:  # only root may; tests also run as other users
        os.fchown(descriptor, *owner)


def _plain(name: str) -> str:
    if "/" in name:
        raise ValueError(f"{name!r} is not the name of an entry")
    return name


def kept_fingerprint(app_dir: str, token_path: str) -> str | None:
    """The fingerprint of the token file's app key as this package stored it, or None."""
    try:
        with Directory(f"{app_dir}/tokens") as kept:
            line = (kept.read("whose") or b"").decode("utf-8", "replace").rstrip("\n")
    except OSError:
        return None
    key, _, path = line.partition(" ")
    return key if is_id(key) and path == token_path else None


class Directory:
    """A directory that others may write to, opened once.

    Raises OSError if it is missing, not a directory, or a link.
    """

    def __init__(self, path: str, beneath: int | None = None) -> None:
        """`beneath`: the descriptor of the directory to which `path` is relative."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        self.descriptor = os.open(path, flags, dir_fd=beneath)

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def stat(self, name: str) -> os.stat_result | None:
        """The status of the entry itself, not of a link's target; None if there is none."""
        try:
            return os.stat(_plain(name), dir_fd=self.descriptor, follow_symlinks=False)
        except (OSError, ValueError):
            return None

    def read(self, name: str) -> bytes | None:
        """The content of a regular file with one link and at most `FILE_LIMIT` bytes, else None."""
        try:
            descriptor = os.open(_plain(name), READ_ONLY, dir_fd=self.descriptor)
        except (OSError, ValueError):
            return None
        with open(descriptor, "rb") as file:
            at = os.fstat(descriptor)
            if not stat.S_ISREG(at.st_mode) or at.st_nlink != 1:
                return None
            content = file.read(FILE_LIMIT + 1)
            return content if len(content) <= FILE_LIMIT else None

    def write(self, name: str, content: bytes, owner: tuple[int, int]) -> None:
        """Replaces the entry of this name atomically by a new file of mode 0600.

        The new file is created under a random name with O_EXCL: it cannot be an existing file.
        """
        new = f".{name}.{os.urandom(8).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        descriptor = os.open(new, flags, 0o600, dir_fd=self.descriptor)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
                _chown(descriptor, owner)
                file.flush()
                os.fsync(descriptor)
            self.rename(new, name)
        except OSError:
            os.unlink(new, dir_fd=self.descriptor)
            raise
        os.fsync(self.descriptor)

    def rename(self, old: str, new: str) -> None:
        os.rename(_plain(old), _plain(new), src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    def set_aside(self, name: str, why: str) -> str:
        """Renames an entry instead of deleting it; returns the new name."""
        new = f"{name}.{why}-{time.strftime('%Y%m%d-%H%M%S')}"
        while self.stat(new) is not None:
            new += "x"
        self.rename(name, new)
        return new

    def own(self, owner: tuple[int, int], token_file: str) -> None:
        """Gives the directory and its regular files to the container's user.

        Links, pipes and directories in it are left alone. The token file becomes readable and
        writable for its owner.
        """
        _chown(self.descriptor, owner)
        os.fchmod(self.descriptor, 0o700)
        for name in os.listdir(self.descriptor):
            try:
                descriptor = os.open(name, READ_ONLY, dir_fd=self.descriptor)
            except OSError:  # a link, or it was removed
                continue
            try:
                at = os.fstat(descriptor)
                if not stat.S_ISREG(at.st_mode) or at.st_nlink != 1:
                    continue
                if (at.st_uid, at.st_gid) != owner:
                    _chown(descriptor, owner)
                if name == token_file and at.st_mode & 0o600 != 0o600:
                    os.fchmod(descriptor, stat.S_IMODE(at.st_mode) | 0o600)
            finally:
                os.close(descriptor)

    def names(self, prefix: str) -> list[str]:
        """The names that begin with `prefix`; of more than `ENTRIES_LIMIT`, the newest."""
        found = [name for name in os.listdir(self.descriptor) if name.startswith(prefix)]
        if len(found) > ENTRIES_LIMIT:
            times = {name: at.st_mtime for name in found if (at := self.stat(name))}
            found = sorted(times, key=lambda name: -times[name])[:ENTRIES_LIMIT]
        return found

    def examine(self, name: str) -> Evidence | None:
        """What a token file in the directory shows; None if there is no entry of this name."""
        at = self.stat(name)
        if at is None:
            return None
        if not stat.S_ISREG(at.st_mode):
            return DAMAGED  # Docker creates a directory if a mounted file is missing
        content = self.read(name)
        return UNKNOWN if content is None else examine(content)


class Kept:
    """What this package stores about tokens in `APP_DIR/tokens`, where only root can write.

    `whose` contains the fingerprint of the token file's app key and the file's path. A parked
    token's file has the fingerprint of its app key as its name: it is of another key, or was
    donated for the next gateway of that key.
    """

    def __init__(self, app_dir: str, token_dir: str, token_file: str) -> None:
        self.token_dir, self.token_file = token_dir, token_file
        os.makedirs(f"{app_dir}/tokens", 0o700, exist_ok=True)
        self.app_dir = app_dir

    def best(self, key: str) -> tuple[str, int]:
        """What the next gateway of `key` finds: the token file's state, and the token's expiry.

        The state is that of `Evidence`, or `missing`; the expiry is 0 if it is unknown.
        """
        state, ends = "missing", 0
        found = self._file()
        if found and (found.state == "damaged" or self.whose(found) not in (None, key)):
            state, found = found.state if found.state == "damaged" else "missing", None
        if found:
            state, ends = found.state, found.valid_until or 0
        parked = self._parked(key)
        if parked and _may_replace(found) and (parked.valid_until or 0) > ends:
            state, ends = "token", parked.valid_until
        return state, ends

    def bring(self, content: bytes | None, key: str) -> bool:
        """Parks a token for the next gateway of its key; False if it is not needed there.

        It must be valid, and expire later than the token that is already there.
        """
        found = examine(content) if content else DAMAGED
        ends = found.valid_until or 0
        key = found.whose or key
        if content is None or ends <= time.time() or ends <= self.best(key)[1]:
            return False
        with Directory(f"{self.app_dir}/tokens") as kept:
            kept.write(key, content, (0, 0))
        return True

    def ready(self, key: str, owner: tuple[int, int]) -> list[str]:
        """Puts the token of `key` into the token file. No gateway may run meanwhile.

        A damaged file is set aside, another key's token is parked: no token is lost. Returns
        messages that say what was done.
        """
        said = []
        make_token_dir(self.token_dir)
        with Directory(self.token_dir) as directory, Directory(f"{self.app_dir}/tokens") as kept:
            found = directory.examine(self.token_file)
            whose = self.whose(found)
            if found and found.state == "damaged":
                aside = directory.set_aside(self.token_file, "damaged")
                said.append(
                    f"the token file is damaged and was set aside: {self.token_dir}/{aside}"
                )
                found = None
            elif found and whose not in (None, key):
                said.append(self._park(directory, kept, found, str(whose)))
                found = None
            parked = kept.read(key)
            ends = (examine(parked).valid_until or 0) if parked else 0
            later = ends > (found.valid_until or 0 if found else 0)
            if parked and later and _may_replace(found):
                directory.write(self.token_file, parked, owner)
                os.unlink(key, dir_fd=kept.descriptor)
            directory.own(owner, self.token_file)
            line = f"{key} {self.token_dir}/{self.token_file}\n".encode()
            if kept.read("whose") != line:
                kept.write("whose", line, (0, 0))
        return said

    def whose(self, found: Evidence | None) -> str | None:
        """The fingerprint of the token file's app key, if that is known."""
        if found is None:
            return None
        path = f"{self.token_dir}/{self.token_file}"
        return found.whose or kept_fingerprint(self.app_dir, path)

    def _park(self, directory: Directory, kept: Directory, found: Evidence, whose: str) -> str:
        content = directory.read(self.token_file)
        there = self._parked(whose)
        if content is None or (there and (there.valid_until or 0) > (found.valid_until or 0)):
            aside = directory.set_aside(self.token_file, f"of-{whose}")
            return f"the token of another app key is set aside: {self.token_dir}/{aside}"
        kept.write(whose, content, (0, 0))
        os.unlink(self.token_file, dir_fd=directory.descriptor)
        return f"the token of another app key is parked: {self.app_dir}/tokens/{whose}"

    def _parked(self, key: str) -> Evidence | None:
        with Directory(f"{self.app_dir}/tokens") as kept:
            content = kept.read(key)
        return examine(content) if content else None

    def _file(self) -> Evidence | None:
        try:
            with Directory(self.token_dir) as directory:
                return directory.examine(self.token_file)
        except OSError:
            return None


def _may_replace(found: Evidence | None) -> bool:
    """Whether a parked token may take the place of the token file.

    A file of unknown form, or with several tokens, has more than the one that would replace it.
    """
    return found is None or (found.state == "token" and len(found.tokens or ()) < 2)


def make_token_dir(path: str) -> None:
    """Makes the token directory if it is missing, for root only."""
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    if not os.path.lexists(path):
        os.mkdir(path, 0o700)
