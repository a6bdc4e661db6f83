"""Issuances as a budget: who has a token, who gives it to whom, who asks KIS, and when. Pure.

KIS issues one token a minute per app key, and refuses all that ask sooner (FACTS of KIS's token
API: `EGW00133`); within six hours it answers with the same token, later with a new one, which ends
the old one for all. So hosts with one app key need one issuance together, if they share it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from kis_gateway_deploy.reading import Reading

# Gateways stop using a token up to 10 minutes before its end, and begin to replace it 15 before.
MARGIN = 10 * 60
WORTH_KEEPING = 20 * 60
# KIS's minute, and a second for the way there.
INTERVAL = 61


@dataclass(frozen=True)
class Gateway:
    """What decides about one host's token. Seconds are counted from the moment of its reading.

    `key_fingerprint`: of its app key. `in_file`: for how long its token on the host is still valid;
    `adopted`: the same of a token that only a container has; 0 or less if there is none. `asked`:
    how long ago KIS was asked with that key, as far as this host shows. `loops`: KIS refuses the
    gateway again and again. `is_unknown`: the token file has an unknown form, and is trusted.
    `is_doubtful`: the file does not say that its token lasts, so the gateway may ask nevertheless.
    `asks_at_start` is False for a gateway that asks at its first request. `file`: the name of its
    token file. `has_several`: that file has several tokens, so that no donated one replaces it.
    """

    key_fingerprint: str
    in_file: int = 0
    adopted: int = 0
    asked: int | None = None
    loops: bool = False
    is_unknown: bool = False
    is_doubtful: bool = False
    asks_at_start: bool = True
    file: str = ""
    has_several: bool = False

    @property
    def shares_with(self) -> tuple[str, str]:
        """Equal for gateways that can use each other's token files: these are copied unchanged."""
        return self.key_fingerprint, self.file

    @property
    def has_token(self) -> bool:
        """Whether its next gateway will find a token that lasts."""
        return self.is_unknown or max(self.in_file, self.adopted) > WORTH_KEEPING


def gateway_of(
    reading: Reading,
    key: str,
    asks_at_start: bool = True,
    file: str | None = "",
    expected: int = 1,
) -> Gateway:
    """What a reading shows of the token of `key` on its host.

    `file`: the setting `gateway_token_file`; `expected`: how many valid tokens the gateway needs.
    """
    own = reading.token_key in {None, key}
    ends = [
        _expires(reading, expected) if own else 0,
        reading.parked.get(key, 0),
    ]
    asked = [reading.attempted.get(key), reading.refused]
    if own and reading.token_state == "token":
        asked.append(reading.token_written)
    ago = [reading.clock - moment for moment in asked if moment is not None]
    in_file = max(ends) - reading.clock
    adopted = mounted_token_left(reading, key)
    if reading.adopted_token_expires is not None:
        adopted = max(adopted, reading.adopted_token_expires - reading.clock)
    says = (reading.token_file_says or 0) - reading.clock
    return Gateway(
        key,
        in_file,
        adopted,
        min((seconds for seconds in ago if seconds >= 0), default=None),
        loops=reading.refused is not None and max(in_file, adopted) <= MARGIN,
        is_unknown=own and reading.token_state == "unknown",
        is_doubtful=own and bool(reading.token_state) and says <= WORTH_KEEPING,
        asks_at_start=asks_at_start,
        file=file or "",
        has_several=len(reading.token_expiries) > 1
        and not {*"*?"} & {*("*" if file is None else file)},
    )


def _expires(reading: Reading, expected: int) -> int:
    """Until when so many tokens are valid; 0 if fewer ones ever were."""
    if expected == 1:
        return reading.token_expires or 0
    enough = len(reading.token_expiries) >= expected
    return reading.token_expiries[-expected] if enough else 0


def without_token(gateway: Gateway) -> Gateway:
    """The same whose token is set aside, so that its next start asks KIS."""
    return replace(
        gateway,
        in_file=0,
        adopted=0,
        loops=False,
        is_unknown=False,
        is_doubtful=True,
        has_several=False,
    )


def external_gateway(reading: Reading, key: str) -> Gateway:
    """One whose token is not in a file: it may ask KIS at any start, and shares with nobody."""
    return Gateway(
        key,
        loops=reading.refused is not None,
        is_unknown=True,
        is_doubtful=True,
        file="external",
    )


def mounted_token_left(reading: Reading, key: str) -> int:
    """For how many seconds a token of `key` is valid that only the running container has mounted.

    0 if there is none: it is of the app key of the release that runs.
    """
    runs = reading.releases.get(reading.current or "")
    if reading.token_mount != "other" or (runs and runs.key != key):
        return 0
    return max(0, (reading.mounted_token_expires or 0) - reading.clock)


@dataclass(frozen=True)
class Issuances:
    """Who gets a token from where, for the hosts that are about to be switched; inventory names.

    `issuers`: the hosts whose gateway asks KIS at its start. `donor_of` maps a host to the one
    whose token it gets. `first`: the hosts to be switched first, one at a time: the issuers, and
    those that adopt a token which others get.
    """

    issuers: tuple[str, ...] = ()
    donor_of: Mapping[str, str] = field(default_factory=dict)
    first: tuple[str, ...] = ()


def distribute(
    members: Sequence[str], gateways: Mapping[str, Gateway], share: bool = True
) -> Issuances:
    """Decides for `members`, the hosts to be switched in their order, among all that were read.

    With `share`, a token that any host has goes to those of its key and file name that have none;
    if no host has one, one host asks. Without, each host that has none asks. A gateway that asks at
    its first request only is never waited for.
    """
    issuers: set[str] = set()
    adopters: set[str] = set()
    donor_of: dict[str, str] = {}
    for group in dict.fromkeys(gateways[name].shares_with for name in members):
        of_key = [name for name in members if gateways[name].shares_with == group]
        without = [name for name in of_key if not gateways[name].has_token]
        asking = [name for name in without if gateways[name].asks_at_start]
        if not share:
            issuers.update(asking)
            continue
        lasting = {n: g.in_file for n, g in gateways.items() if g.shares_with == group}
        donor = max(lasting, key=lambda name: lasting[name])
        if lasting[donor] <= WORTH_KEEPING:
            # A token that only a container has can be given once it is adopted.
            adopting = [name for name in of_key if gateways[name].adopted > WORTH_KEEPING]
            if not adopting and not asking:
                continue
            donor = [*adopting, *asking][0]
            if not adopting:
                issuers.add(donor)
            elif without:
                adopters.add(donor)
        issuers.update(name for name in asking if gateways[name].has_several)
        donor_of |= {
            name: donor for name in without if name != donor and not gateways[name].has_several
        }
    return Issuances(
        tuple(name for name in members if name in issuers),
        donor_of,
        tuple(name for name in members if name in issuers | adopters),
    )


def wait_before(ago: float | None) -> int:
    """Whole seconds until KIS may be asked, if it was last asked `ago` seconds before."""
    return 0 if ago is None else max(0, math.ceil(INTERVAL - ago))
