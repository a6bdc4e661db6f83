"""The calls to KIS and the meaning of its refusals. The only state is the connection pool."""

from __future__ import annotations

from collections.abc import Mapping
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from .config import Settings
from .tokens import Token, UnreadableToken, parse_token

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 10.0
"""Seconds. KIS has been seen to hang for more than 5 s."""

MAX_IN_FLIGHT = 32
"""Requests to KIS in progress at the same time."""

TOO_SOON = "EGW00133"
WRONG_KEY = "EGW00103"
WRONG_SECRET = "EGW00105"
REFUSED_TOKENS = ("EGW00121", "EGW00123")
"""``msg_cd`` for a token that KIS does not know (any more), and for an expired token."""


class TokenRefused(Exception):
    """KIS refused an issuance, always with HTTP 403: only `code` decides what to do."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(f"{code}: {description}")
        self.code = code


class KisUnavailable(Exception):
    """KIS could not be reached, closed the connection, or sent an answer that cannot be parsed."""


class KisTimeout(KisUnavailable):
    """KIS took the request and did not answer in time: it may or may not have acted on it."""


class Kis:
    """One app key's access to KIS, real or paper; safe to share between threads."""

    def __init__(
        self, settings: Settings, timeout: tuple[float, float] = (CONNECT_TIMEOUT, READ_TIMEOUT)
    ) -> None:
        """`timeout`: seconds to connect, and to wait for the answer."""
        self._settings = settings
        self._timeout = timeout
        self._session = requests.Session()
        # Ignore .netrc, which would replace the authorization header, and proxies, which see it.
        self._session.trust_env = False
        # All threads share this session: one answer's cookies must not go into another request.
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        # No automatic retry: a POST may be an order.
        adapter = HTTPAdapter(pool_maxsize=MAX_IN_FLIGHT, max_retries=0)
        self._session.mount(settings.base_url, adapter)

    def issue_token(self) -> Token:
        """Ask for a token. The expiry is KIS's ``access_token_token_expired`` (KST).

        KIS allows one issuance per 60 s per app key, else 403 ``EGW00133``; the caller must keep to
        that. Within six hours KIS returns the same token with the same expiry, but ``expires_in``
        still says 86400.

        Raises:
            TokenRefused: KIS answered with an ``error_code``.
            KisUnavailable: for any other failure.
        """
        response = self._send(
            "POST",
            "/oauth2/tokenP",
            json={
                "grant_type": "client_credentials",
                "appkey": self._settings.app_key,
                "appsecret": self._settings.app_secret,
            },
        )
        answer = json_object(response)
        if code := answer.get("error_code"):
            raise TokenRefused(str(code), str(answer.get("error_description"))[:200])
        if response.status_code != 200:
            raise KisUnavailable(f"KIS answered HTTP {response.status_code} with no error code")
        try:
            return parse_token(
                {
                    "access_token": answer.get("access_token"),
                    "access_token_token_expired": answer.get("access_token_token_expired"),
                }
            )
        except UnreadableToken as error:
            raise KisUnavailable(f"KIS answered HTTP 200 with no token in it: {error}") from None

    def call(
        self,
        token: Token,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        body: bytes,
    ) -> requests.Response:
        """Send a request to ``/uapi`` with token and credentials; the answer has any HTTP status.

        Raises:
            KisUnavailable: there is no answer.
        """
        return self._send(
            method,
            f"{path}?{query}" if query else path,
            data=body,
            headers={
                **headers,
                "authorization": f"Bearer {token.value}",
                "appkey": self._settings.app_key,
                "appsecret": self._settings.app_secret,
            },
        )

    def explain(self, refusal: TokenRefused) -> str:
        """What a refused issuance means and what to do, for the operator; shows no credential."""
        settings = self._settings
        if refusal.code == TOO_SOON:
            return (
                "KIS issues one token a minute per app key (EGW00133), and another program with "
                "this key, or this gateway's predecessor, has asked within the last minute"
            )
        if refusal.code == WRONG_SECRET:
            return (
                "KIS says that the app secret is wrong (EGW00105): correct the field "
                f"{settings.app_secret_field!r} of {settings.secrets_file} and re-create the "
                "container"
            )
        if refusal.code == WRONG_KEY:
            return (
                f"KIS ({settings.base_url}) does not know the app key (EGW00103): correct field "
                f"{settings.app_key_field!r} of {settings.secrets_file} and re-create the "
                "container; a paper key does not work for real trading, nor a real key for paper. "
                "KIS also returns this code for a day after many refused attempts"
            )
        return f"KIS refused to issue a token ({refusal})"

    def _send(self, method: str, path: str, **arguments: Any) -> requests.Response:
        try:
            return self._session.request(
                method,
                self._settings.base_url + path,
                timeout=self._timeout,
                allow_redirects=False,  # a redirect would carry the credentials elsewhere
                **arguments,
            )
        # The exceptions' texts contain the full URL with the account number: do not show them.
        except requests.ConnectTimeout:
            problem = f"no connection within {self._timeout[0]:g} s"
        except requests.ReadTimeout:
            raise KisTimeout(
                f"KIS ({self._settings.base_url}) did not answer within {self._timeout[1]:g} s"
            ) from None
        except requests.exceptions.SSLError:
            problem = "its TLS certificate could not be verified"
        except requests.RequestException as error:
            problem = _innermost(error)
        raise KisUnavailable(f"no answer from KIS ({self._settings.base_url}): {problem}")


def json_object(response: requests.Response) -> Mapping[str, object]:
    """The answer's JSON object; an empty one for any other answer."""
    try:
        answer = response.json()
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _innermost(error: BaseException) -> str:
    """The type of the first cause, e.g. ``ConnectionRefusedError``."""
    while error.__context__ is not None:
        error = error.__context__
    return type(error).__name__
