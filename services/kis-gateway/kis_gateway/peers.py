"""The other gateways with this app key: they share one token, and one of them asks KIS at a time.

KIS ends the old token for all at the moment when it issues a new one, so gateways that know nothing
of each other would each have to ask, and one issuance a minute would be enough for one of them.
What they tell each other is sealed with a key that is made of the app's credentials: whoever lacks
these can neither read nor forge it. What is sealed does not age, because clocks may differ: an old
answer tells of an old token, which KIS would refuse.
"""

from __future__ import annotations

import base64
import json
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import requests
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .tokens import Token

log = logging.getLogger(__name__)

TIMEOUT = (1.0, 2.0)
"""Seconds to connect to a peer, and to wait for its answer."""

PATIENCE = 16.0
"""Seconds to wait for a peer that is asking KIS: as long as that can take."""

PAUSE = 0.3


class PeerIsAsking(Exception):
    """Another gateway is asking KIS, and has not come to an end of it in time."""


@dataclass(frozen=True)
class Offer:
    """What one gateway tells another. `attempted_ago`: how long ago it asked KIS last, in seconds.

    Not when: their clocks may differ. None where it has not, or its clock was set back since.
    """

    instance: str
    token: Token | None
    is_asking: bool
    attempted_ago: float | None


class Peers:
    """The gateways at `urls`, one's own among them or not; with none of them, all is quiet here."""

    def __init__(self, urls: Sequence[str], app_key: str, app_secret: str) -> None:
        self.instance = secrets.token_hex(8)
        self.is_asking = False
        self._urls = urls
        key = HKDF(SHA256(), 32, salt=None, info=b"kis-gateway peers").derive(
            f"{app_key}\0{app_secret}".encode()
        )
        self._seal = Fernet(base64.urlsafe_b64encode(key))
        self._session = requests.Session()
        self._session.trust_env = False

    def __bool__(self) -> bool:
        return bool(self._urls)

    def seal(self, token: Token | None, attempted_ago: float | None) -> bytes:
        """What this gateway tells whoever asks."""
        told = {
            "instance": self.instance,
            "token": token and {"value": token.value, "expires_at": token.expires_at},
            "is_asking": self.is_asking,
            "attempted_ago": attempted_ago,
        }
        return self._seal.encrypt(json.dumps(told).encode())

    def open(self, sealed: bytes) -> Offer:
        """What another one has sealed.

        Raises:
            InvalidToken: with other credentials, or not at all.
        """
        told = json.loads(self._seal.decrypt(sealed))
        token = told["token"] and Token(told["token"]["value"], told["token"]["expires_at"])
        return Offer(told["instance"], token, told["is_asking"], told["attempted_ago"])

    def poll(self) -> list[Offer]:
        """What all others say that answer; asked side by side."""
        if not self._urls:
            return []
        with ThreadPoolExecutor(len(self._urls)) as pool:
            offers = pool.map(self._ask, self._urls)
            return [each for each in offers if each and each.instance != self.instance]

    def _ask(self, url: str) -> Offer | None:
        try:
            answer = self._session.get(f"{url}/peer/token", timeout=TIMEOUT, allow_redirects=False)
            answer.raise_for_status()
            return self.open(answer.content)
        except requests.RequestException as error:
            log.info("The gateway at %s does not answer: %s", url, type(error).__name__)
        except InvalidToken:
            log.warning(
                "The gateway at %s has other credentials: KIS_TOKEN_PEERS must name gateways with "
                "the same app key and secret only",
                url,
            )
        return None

    def take_turn(self, is_better: Callable[[Token], bool]) -> tuple[Token | None, float | None]:
        """Waits for the right to ask KIS, or for a token that makes that needless.

        Returns the token that ends last of those that are better than one's own; without any, this
        gateway is the only one that asks, until `end_turn`. And how long ago a peer has asked KIS,
        in seconds; None where none has.

        A gateway shows that it wants to ask before it looks at the others, and goes on only when
        it sees no other who wants to: of two, at least the later sees the earlier. Where both do,
        the one with the higher id steps back.

        Raises:
            PeerIsAsking: after `PATIENCE`.
        """
        deadline = time.monotonic() + PATIENCE
        self.is_asking = True
        while True:
            offers = self.poll()
            ago = [each.attempted_ago for each in offers if each.attempted_ago is not None]
            attempted_ago = min(ago, default=None)
            tokens = [offer.token for offer in offers if offer.token and is_better(offer.token)]
            if tokens:
                return max(tokens, key=lambda token: token.expires_at), attempted_ago
            others = [offer.instance for offer in offers if offer.is_asking]
            if not others:
                if self.is_asking:
                    return None, attempted_ago
                self.is_asking = True
                continue
            if min(others) < self.instance:
                self.is_asking = False
            if time.monotonic() > deadline:
                raise PeerIsAsking("another gateway with this app key is asking KIS")
            time.sleep(PAUSE)

    def end_turn(self) -> None:
        self.is_asking = False
