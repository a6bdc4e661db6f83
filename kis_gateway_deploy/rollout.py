"""In which order hosts are switched, and how far that came. Touches no host."""

from __future__ import annotations

import getpass
import math
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kis_gateway_deploy.issuance import Gateway, Issuances, distribute, in_order, wait_before


def author() -> str:
    """Who deploys, as histories of hosts name it: `kim@desk`."""
    user = os.environ.get("SUDO_USER") or getpass.getuser()
    return re.sub(r"[^\w.@-]", "_", f"{user}@{socket.gethostname()}")


def make_batches(hosts: Sequence[str], sizes: Sequence[int | str]) -> list[list[str]]:
    """The hosts, in their order, as batches of these sizes; the last size is repeated.

    A size is a count or a percentage of all hosts, rounded down, but one host at least (as
    Ansible's `serial` has it): 8 hosts in `[1, "25%", "100%"]` are batches of 1, 2 and 5.
    """
    batches: list[list[str]] = []
    rest = list(hosts)
    while rest:
        size = sizes[min(len(batches), len(sizes) - 1)]
        if isinstance(size, str):
            size = max(1, math.floor(len(hosts) * int(size.removesuffix("%")) / 100))
        batches.append(rest[:size])
        rest = rest[size:]
    return batches


@dataclass
class Rollout:
    """Which host may be switched when. A host whose connection is lost records nothing."""

    batches: list[list[str]]
    switched: list[str] = field(default_factory=list)
    reverted: list[str] = field(default_factory=list)
    issuances: Issuances = field(default_factory=Issuances)
    keys: Mapping[str, str] = field(default_factory=dict)  # fingerprints by host
    looping: frozenset[str] = frozenset()  # hosts whose gateway KIS refuses again and again
    counted: dict[str, int] = field(default_factory=dict)  # issuances that were seen, by host
    # The generation of each host that was changed in this run: what runs there is as it left it.
    generations: dict[str, str] = field(default_factory=dict)
    _asked: dict[str, float] = field(default_factory=dict)  # moments by key

    @classmethod
    def plan(
        cls,
        batches: Sequence[Sequence[str]],
        gateways: Mapping[str, Gateway],
        share: bool,
        now: float,
    ) -> Rollout:
        """For these batches; `gateways` are of all hosts that were read, at `now` (seconds)."""
        members = [name for batch in batches for name in batch]
        issuances = distribute(members, gateways, share)
        keys = {name: gateway.key for name, gateway in gateways.items()}
        result = cls(
            in_order(batches, issuances.after),
            issuances=issuances,
            keys=keys,
            looping=frozenset(name for name in members if gateways[name].loops),
        )
        for gateway in gateways.values():
            if gateway.asked is not None:
                result._note(gateway.key, now - gateway.asked)
        return result

    def has_asked(self, host: str, now: float) -> None:
        """To be told when a gateway of this host may just have asked KIS."""
        self._note(self.keys[host], now)

    def has_issued(self, host: str, count: int) -> None:
        """To be told of what a switch of this host has counted."""
        self.counted[host] = self.counted.get(host, 0) + count

    def _note(self, key: str, moment: float) -> None:
        self._asked[key] = max(moment, self._asked.get(key, moment))

    def wait_for_kis(self, host: str, now: float) -> int:
        """Seconds for which KIS must be left alone with this host's key."""
        asked = self._asked.get(self.keys[host])
        return wait_before(None if asked is None else now - asked)

    def budget(self, host: str) -> int:
        """How many issuances the host's switch may take."""
        return 1 if host in {*self.issuances.asks, *self.issuances.may_ask} else 0

    @property
    def count(self) -> str:
        """`issuances: 0 (budget 1)`, of the whole run."""
        budget = len(self.issuances.asks) + len(self.issuances.may_ask)
        return f"issuances: {sum(self.counted.values())} (budget {budget})"

    @property
    def unfinished(self) -> list[str]:
        """The hosts that were to be switched and were not."""
        return [name for hosts in self.batches for name in hosts if name not in self.switched]
