"""The forms of token files: what their content shows.

A token file is only evidence: the gateway decides whether its own file can be used.
"""

from __future__ import annotations

import json
import re
import time
from binascii import a2b_base64
from collections import namedtuple
from datetime import datetime, timedelta, timezone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FILE_LIMIT = 64 * 1024
"""Maximum bytes read of a file; a larger file has an unknown form."""

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
            if len(found) < 2 * JWTS and not _jwts(token):
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


def merged(found: list[Evidence]) -> Evidence | None:
    """What several token files of one gateway show together; None if there is none.

    Files of an unknown form or damaged files count only if there is no token in any other file.
    """
    if len(found) < 2:
        return found[0] if found else None
    of_state = {
        state: [each for each in found if each.state == state]
        for state in ("token", "unknown", "damaged")
    }
    with_tokens = of_state["token"]
    if not with_tokens:
        return (of_state["unknown"] or of_state["damaged"])[0]
    last = max(with_tokens, key=lambda each: each.valid_until)
    now = time.time()
    says = [each.file_says for each in with_tokens if each.valid_until > now]
    owners = {each.whose for each in with_tokens}
    return Evidence(
        "token",
        last.valid_until,
        min(end or 0 for end in says) or None if says else None,
        owners.pop() if len(owners) == 1 else None,
        frozenset().union(*(each.tokens or () for each in with_tokens)) or None,
        last.source,
        tuple(sorted(end for each in with_tokens for end in each.expiries)),
    )


def expiry_of(found: Evidence | None, count: int) -> int:
    """Until when `count` tokens are valid (epoch seconds); 0 if that is unknown or never was."""
    expiries = found.expiries if found else ()
    return int(expiries[-count]) if len(expiries) >= count else 0


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
"""Maximum number of JWTs of a file that are read, and of other tokens: `FILE_LIMIT` holds fewer of
KIS's."""

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
