"""Issuances as a budget: who has a token, who gives it to whom, who asks KIS, and when. Pure.

KIS issues one token a minute per app key, and refuses all that ask sooner (FACTS of KIS's token
API: `EGW00133`); within six hours it answers with the same token, later with a new one, which ends
the old one for all. So hosts with one app key need one issuance together, if they share it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kis_gateway_deploy.reading import Reading

# Gateways stop using a token up to 10 minutes before its end, and begin to replace it 15 before.
MARGIN = 10 * 60
WORTH_KEEPING = 20 * 60
# KIS's minute, and a second for the way there.
INTERVAL = 61


@dataclass(frozen=True)
class Gateway:
    """What decides about one host's token. Seconds are counted from the moment of its reading.

    `key`: the fingerprint of its app key. `in_file`: for how long its token on the host is still
    valid; `adopted`: the same of one that only a container has; 0 or less if there is none.
    `asked`: how long ago KIS was asked with that key, as far as this host shows. `loops`: KIS
    refuses a container of it. `is_unknown`: the token file has a form that is not known here, and
    is trusted. `is_doubtful`: the file does not say that its token lasts, so the gateway may ask
    all the same. `asks_at_start` is False for a gateway that asks at its first request.
    """

    key: str
    in_file: int = 0
    adopted: int = 0
    asked: int | None = None
    loops: bool = False
    is_unknown: bool = False
    is_doubtful: bool = False
    asks_at_start: bool = True

    @property
    def has_token(self) -> bool:
        """Whether its next gateway will find a token that lasts."""
        return self.is_unknown or max(self.in_file, self.adopted) > WORTH_KEEPING


def gateway_of(reading: Reading, key: str, asks_at_start: bool = True) -> Gateway:
    """What a reading shows of the token of `key` on its host."""
    own = reading.token_key in {None, key}
    ends = [
        (reading.token_expires or 0) if own else 0,
        reading.parked.get(key, 0),
    ]
    asked = [reading.attempted.get(key), reading.refused]
    if own and reading.token_state == "token":
        asked.append(reading.token_written)
    ago = [reading.clock - moment for moment in asked if moment is not None]
    in_file = max(ends) - reading.clock
    adopted = mounted_token_left(reading, key)
    if reading.adopted and reading.adopted_token_expires is not None:
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
    )


def mounted_token_left(reading: Reading, key: str) -> int:
    """For how many seconds a token of `key` is valid that only the running container has mounted.

    0 if there is none: it is of the app key of the release that runs.
    """
    runs = reading.releases.get(reading.current or "") or key
    if reading.token_mount != "other" or runs != key:
        return 0
    return max(0, (reading.mounted_token_expires or 0) - reading.clock)


@dataclass
class Issuances:
    """Who gets a token from where, for the hosts that are about to be switched.

    `asks` are the hosts whose gateway has to ask KIS, `may_ask` those that do so when a client asks
    them; `given` maps a host to the one whose token it gets; `after` maps a host to the one that
    must be switched before it. All by inventory names.
    """

    asks: list[str] = field(default_factory=list)
    may_ask: list[str] = field(default_factory=list)
    given: dict[str, str] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)


def distribute(
    members: Sequence[str], gateways: Mapping[str, Gateway], share: bool = True
) -> Issuances:
    """Decides for `members`, the hosts to be switched in their order, among all that were read.

    With `share`, a token that any host has goes to those of its key that have none, and where no
    host has one, one asks first, alone. Without, each that has none asks, one after the other.
    None waits for one that asks later than at its start.
    """
    result = Issuances()
    result.may_ask += [n for n in members if gateways[n].has_token and gateways[n].is_doubtful]
    for key in dict.fromkeys(gateways[name].key for name in members):
        of_key = [name for name in members if gateways[name].key == key]
        without = [name for name in of_key if not gateways[name].has_token]
        asking = [name for name in without if gateways[name].asks_at_start]
        if not share:
            result.asks += asking
            result.may_ask += [name for name in without if name not in asking]
            result.after |= dict(zip(asking[1:], asking, strict=False))
            continue
        lasting = {n: g.in_file for n, g in gateways.items() if g.key == key}
        source = max(lasting, key=lambda name: lasting[name])
        if lasting[source] <= WORTH_KEEPING:
            # Where a token lies in a container only, it is there for all once that is adopted.
            adopting = [name for name in of_key if gateways[name].adopted > WORTH_KEEPING]
            if not adopting and not asking:
                result.may_ask += without
                continue
            source = [*adopting, *asking][0]
            result.after |= {name: source for name in without if name != source}
        if source in without:
            result.asks.append(source)
        result.given |= {name: source for name in without if name != source}
    return result


def in_order(batches: Sequence[Sequence[str]], after: Mapping[str, str]) -> list[list[str]]:
    """The same batches, divided where a host must wait for one that would come with it or later."""
    result: list[list[str]] = []
    waiting: list[str] = []
    done: set[str] = set()
    for batch in batches:
        waiting += batch
        while now := [name for name in waiting if after.get(name, name) in {name, *done}]:
            result.append(now)
            done.update(now)
            waiting = [name for name in waiting if name not in done]
    return result


def wait_before(ago: float | None) -> int:
    """Whole seconds until KIS may be asked, where it was asked `ago` seconds before."""
    return 0 if ago is None else max(0, math.ceil(INTERVAL - ago))
