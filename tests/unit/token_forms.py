"""Token files as gateways write them, and the page of them: `python -m tests.unit.token_forms`.

It prints the page; with `--write` it writes docs/token-forms.md instead. All tokens are made up.
"""

from __future__ import annotations

import json
import pickle
import sqlite3
import sys
from base64 import b64encode
from contextlib import closing
from typing import NamedTuple

from kis_gateway_deploy.paths import ROOT
from tests.unit.builders import jwt

PAGE = ROOT / "docs/token-forms.md"

ENDS = 1800000000  # 2027-01-15 08:00 UTC, 17:00 in Korea
EARLIER = ENDS - 5 * 3600
LATER = ENDS + 6 * 3600  # of a field that overstates: now + expires_in
KOREA = "2027-01-15 17:00:00"
ISO = "2027-01-15T17:00:00"
KEY = "PSmadeupappkeyofthesetests0000000000"
OPAQUE = "a-token-that-is-no-JWT"


def kis_jwt(ends: int) -> str:
    """A JWT with the claims of KIS's; `jti` looks like the app key."""
    claims = {"sub": "token", "aud": "7d1c", "iss": "unogw", "iat": ends - 86400, "jti": KEY}
    return jwt(**claims, exp=ends)


TOKEN, OLDER = kis_jwt(ENDS), kis_jwt(EARLIER)


class Form(NamedTuple):
    """A token file, and what is expected of it; `shown` is for the page if it is binary."""

    name: str
    content: bytes
    source: str = "JWT exp"
    expiries: tuple[int, ...] = (ENDS,)
    state: str = "token"
    shown: str = ""


def text(name: str, content: str) -> Form:
    return Form(name, content.encode())


def data(name: str, content: object) -> Form:
    return text(name, json.dumps(content, ensure_ascii=False))


def answer(token: str = TOKEN, **more: object) -> dict[str, object]:
    """KIS's answer to `POST /oauth2/tokenP`."""
    return {
        "access_token": token,
        "access_token_token_expired": KOREA,
        "token_type": "Bearer",
        "expires_in": 86400,
    } | more


def cached(token: str = TOKEN, **more: object) -> dict[str, object]:
    return {"access_token": token} | more


def database() -> bytes:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE tokens (env TEXT, token TEXT, expired_at TEXT)")
        rows = [("real", TOKEN, KOREA), ("paper", OLDER, KOREA)]
        connection.executemany("INSERT INTO tokens VALUES (?, ?, ?)", rows)
        connection.commit()
        return connection.serialize()


FERNET = "gAAAAABnMadeUp0000" + b64encode(bytes(range(96))).decode().translate({43: 45, 47: 95})
LINES = "".join(json.dumps(cached(token)) + "\n" for token in (OLDER, TOKEN))
ENVIRONMENT = f"KIS_ACCESS_TOKEN={TOKEN}\nKIS_TOKEN_EXPIRED='{KOREA}'\n"
BOTH = (EARLIER, ENDS)

FORMS = [
    data("expires_at, seconds", cached(expires_at=LATER)),
    data("expires_at, fraction of a second", cached(expires_at=LATER + 0.123456)),
    data("expires_at, seconds as text", cached(expires_at=str(LATER))),
    data("expires_at, milliseconds", cached(expires_at=LATER * 1000)),
    data("expires_at, ISO with zone", cached(expires_at=f"{ISO}+09:00")),
    data("expires_at, ISO with Z", cached(expires_at="2027-01-15T08:00:00.123Z")),
    data("expires_at, ISO without zone", cached(expires_at=ISO)),
    data("expires_at, date and time", cached(expires_at="2027-01-15 08:00:00.123456")),
    data("expires_at, YYYYMMDDHHMMSS", cached(expires_at="20270115170000")),
    data("expires_at, list of numbers (Java)", cached(expires_at=[2027, 1, 15, 17, 0])),
    data("expired_at, date and time", cached(expired_at=KOREA)),
    data(
        "expires_at_unix and token_type", cached(token_type="Bearer", expires_at_unix=LATER + 0.5)
    ),
    data("token_exp", cached(token_exp=LATER)),
    data("issued_at only", cached(issued_at=ENDS - 86400)),
    data("issue_time and expires_in", cached(issue_time=ENDS - 80000.5, expires_in=86400)),
    data("KIS's answer (python-kis)", answer()),
    data("KIS's answer and issued_at", answer(issued_at=ENDS - 80000)),
    data("KIS's answer and timestamp", answer(timestamp=LATER)),
    data("KIS's answer and expires_at without zone", answer(expires_at=ISO)),
    data("KIS's answer as `data`", {"data": answer(), "saved_at": ISO}),
    data("token, expires_at", {"token": TOKEN, "expires_at": LATER}),
    data("token, expiresAt in milliseconds", {"token": TOKEN, "expiresAt": LATER * 1000}),
    data("token, expiresAt, issuedAt", {"token": TOKEN, "expiresAt": LATER, "issuedAt": 1}),
    data("accessToken, expiresAt", {"accessToken": TOKEN, "expiresAt": f"{ISO}.000Z"}),
    data("map by app key", {KEY: cached(expires_at=LATER)}),
    data("real and paper", {"real": cached(expires_at=1), "paper": cached(OLDER)})._replace(
        expiries=BOTH
    ),
    data("real and paper, token only", {"real": TOKEN, "paper": OLDER})._replace(expiries=BOTH),
    data("list of accounts", [{"account": "1", "token": OLDER}, {"token": TOKEN}])._replace(
        expiries=BOTH
    ),
    text("YAML of KIS's official sample", f"token: {TOKEN}\nvalid-date: {KOREA}\n"),
    text("YAML, nested", f"real:\n  access_token: {TOKEN}\n  expires_at: {KOREA}\n"),
    Form(
        "pickle of KIS's answer (mojito2)",
        pickle.dumps(answer(timestamp=LATER, api_key=KEY), 4),
        shown="bytes of pickle, which is never unpickled",
    ),
    Form(
        "SQLite",
        database(),
        expiries=BOTH,
        shown="a database file; its bytes are searched",
    ),
    text("token only", TOKEN),
    text("token with its type", f"Bearer {TOKEN}\n"),
    text("token, type and date between bars", f"{TOKEN}|Bearer|{ISO}"),
    text("token and date on two lines", f"{TOKEN}\n{KOREA}\n"),
    text("env file", ENVIRONMENT),
    text("INI", f"[kis]\naccess_token = {TOKEN}\nexpires_at = {KOREA}\n"),
    text("Python literal", str(cached(expires_at=KOREA))),
    text("JSON lines", LINES)._replace(expiries=BOTH),
    data("JSON as text in JSON", json.dumps(cached(expires_at=ISO))),
    Form("encrypted (Fernet)", FERNET.encode(), "not known", (), "unknown"),
    Form("JSON in base64", b64encode(json.dumps(answer()).encode()), "not known", (), "unknown"),
]
"""Forms of public projects, with a JWT as KIS issues it."""


def opaque(name: str, content: object, source: str = "", *ends: int) -> Form:
    """The same with a token that is no JWT; without `source` the expiry is not known."""
    form = content if isinstance(content, str) else json.dumps(content)
    if not source:
        return Form(name, form.encode(), "not known", (), "unknown")
    return Form(name, form.encode(), source, ends or (ENDS,))


def damaged(name: str, content: bytes) -> Form:
    return Form(name, content, "not known", (), "damaged", "" if content.strip(b" \n\0") else "-")


VARIANTS = [
    opaque("expires_at, seconds", cached(OPAQUE, expires_at=ENDS), "expires_at"),
    opaque("expires_at, fraction", cached(OPAQUE, expires_at=ENDS + 0.9), "expires_at"),
    opaque("expires_at, seconds as text", cached(OPAQUE, expires_at=str(ENDS)), "expires_at"),
    opaque("expires_at, milliseconds", cached(OPAQUE, expires_at=ENDS * 1000), "expires_at"),
    opaque("expires_at, ISO with zone", cached(OPAQUE, expires_at=f"{ISO}+0900"), "expires_at"),
    opaque(
        "expires_at, ISO with Z and nanoseconds",
        cached(OPAQUE, expires_at="2027-01-15T08:00:00.123456789Z"),
        "expires_at",
    ),
    opaque("expires_at, ISO without zone", cached(OPAQUE, expires_at=ISO)),
    opaque("expires_at, YYYYMMDDHHMMSS", cached(OPAQUE, expires_at="20270115170000")),
    opaque("token_exp", cached(OPAQUE, token_exp=ENDS), "token_exp"),
    opaque("expires_in only", cached(OPAQUE, expires_in=86400)),
    opaque("KIS's answer", answer(OPAQUE), "access_token_token_expired"),
    opaque(
        "KIS's answer with YYYYMMDDHHMMSS",
        answer(OPAQUE, access_token_token_expired="20270115170000"),
        "access_token_token_expired",
    ),
    opaque(
        "KIS's answer and expires_at, which overstates",
        answer(OPAQUE, expires_at=LATER),
        "access_token_token_expired",
    ),
    opaque(
        "token, expiresAt in milliseconds",
        {"token": OPAQUE, "expiresAt": ENDS * 1000},
        "expiresAt",
    ),
    opaque(
        "accessToken, expiresAt",
        {"accessToken": OPAQUE, "expiresAt": "2027-01-15T08:00:00.000Z"},
        "expiresAt",
    ),
    opaque("map by app key", {KEY: cached(OPAQUE, expires_at=ENDS)}, "expires_at"),
    opaque(
        "real and paper",
        {"real": cached("a", expires_at=ENDS), "paper": cached("b", expires_at=EARLIER)},
        "expires_at",
        *BOTH,
    ),
    opaque("an expiry that is not beside the token", {"a": cached(OPAQUE), "expires_at": ENDS}),
    opaque("YAML of KIS's official sample", f"token: {OPAQUE}\nvalid-date: {KOREA}", "valid-date"),
    opaque("YAML, nested", f"real:\n  token: {OPAQUE}\n  valid-date: {KOREA}\n"),
    opaque("token only", OPAQUE),
    opaque("token, type and date between bars", f"{OPAQUE}|Bearer|{ISO}"),
    Form(
        "a JWT and another token",
        json.dumps({"real": cached(), "paper": cached(OPAQUE, expires_at=LATER)}).encode(),
        "expires_at",
        (ENDS, LATER),
    ),
    data("the same token twice", {"access_token": TOKEN, "token": TOKEN}),
    text("log of tokens, the newest not last", f"new {TOKEN}\nold {OLDER}\n")._replace(
        expiries=BOTH
    ),
    damaged("empty, as KIS's official sample creates it when it is imported", b""),
    damaged("blanks or zeros only", b" \n" + b"\0" * 9),
    damaged("truncated in the JWT", json.dumps(cached())[:-20].encode()),
    damaged("truncated after the JWT", json.dumps(cached(expires_at=ENDS))[:-1].encode()),
]
"""Other tokens than JWTs, several tokens, and damage."""

HEAD = """\
# Forms of token files

This page is generated from `tests/unit/token_forms.py`; tests compare it, and read each file.

What is read is when the token expires, to the second. The sources, in this order:

1. `exp` of a JWT anywhere in the file's bytes, at most 64 KiB. KIS's tokens are JWTs.
2. `access_token_token_expired` or `valid-date` beside the token. They are KIS's own: Korean time.
3. The gateway's own field beside the token: seconds, milliseconds, or a date with a time zone.

Any other date without a time zone may be Korean time or UTC, so it does not count. Of several
tokens, the last to expire decides. A file whose expiry is not known is left alone.

`JWT` stands for a token as KIS issues it, `OTHER` for a token that is no JWT.

## Files of public projects

{read} of {all} are read.

"""


def forms_page() -> str:
    """The page as markdown."""
    read = sum(form.state == "token" for form in FORMS)
    return (
        HEAD.format(read=read, all=len(FORMS))
        + _table(FORMS)
        + "\n## Other tokens, several tokens, damage\n\n"
        + _table(VARIANTS)
    )


def _table(forms: list[Form]) -> str:
    lines = ["| form | file | the expiry is read from |", "| --- | --- | --- |"]
    lines += [f"| {form.name} | {_shown(form)} | {_result(form)} |" for form in forms]
    return "\n".join(lines) + "\n"


def _shown(form: Form) -> str:
    if form.shown:
        return form.shown
    content = form.content.decode()
    for token, short in ((TOKEN, "JWT"), (OLDER, "JWT 2"), (OPAQUE, "OTHER"), (KEY, "APPKEY")):
        content = content.replace(token, short)
    content = content.strip().replace("\n", "⏎").replace("|", "\\|")
    return f"`{content if len(content) < 200 else content[:60] + '…'}`"


def _result(form: Form) -> str:
    if form.state == "damaged":
        return "damaged"
    several = f" ({len(form.expiries)} tokens)" if len(form.expiries) > 1 else ""
    source = form.source if form.source in {"JWT exp", "not known"} else f"`{form.source}`"
    return source + several


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(forms_page(), "utf-8")
    else:
        sys.stdout.write(forms_page())
