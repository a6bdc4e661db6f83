"""How a run that may change hosts ends, in lines: what became of each host, what to do next. Pure.

What a host has said is escaped before it comes here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kis_gateway_deploy.display import (
    NOTHING,
    cut,
    image_tag,
    label,
    shortened,
    table,
    token_left,
)
from kis_gateway_deploy.hook import End
from kis_gateway_deploy.outcomes import NO_GATE, Gate, follows
from kis_gateway_deploy.reading import Reading

DIGITS = 4
"""Of a release's id, where these are unique."""
HOSTS_EXPLAINED = 5
LINE_LIMIT = 300
DONE = {
    "up": "Deployed",
    "restart": "Restarted",
    "renew": "Renewed the token of",
    "rollback": "Rolled back",
}


@dataclass(frozen=True)
class Ended:
    """One host at the end of a run.

    `tag`: of the image of the release that runs. `outcome`: that of `end`, or `reverted`; empty
    without a switch. `serves`: whether its gateway serves clients; None if that is not known.
    `token`: how long its token is valid, in short. `has_switch`: whether this run was to switch it.
    `is_counted`: whether its token is in a file, so that issuances are counted.
    """

    end: End
    tag: str = ""
    outcome: str = ""
    serves: bool | None = None
    token: str = ""
    gate: Gate = NO_GATE
    has_switch: bool = False
    is_counted: bool = True

    @property
    def is_done(self) -> bool:
        """Whether it runs what was asked for, and has passed its gate."""
        return follows(self.outcome).has_passed


def ended(
    end: End,
    image: str,
    read: Reading | None,
    looked: Reading | None,
    gate: Gate,
    is_reverted: bool,
    has_switch: bool,
    is_counted: bool = True,
) -> Ended:
    """`image`: of the desired release. `read`: the reading of the plan; `looked`: the one after
    the switch, if there was one."""
    last = looked if looked and looked.current == end.after else None
    known = last or (read if read and read.current == end.after else None)
    tag = image_tag(image) if end.after else ""
    if known and end.after and known.container:
        tag = image_tag(known.container.image_name)
    return Ended(
        end,
        cut(tag),
        "reverted" if is_reverted else end.outcome or "",
        _serves(end, read, last),
        token_left(latest) if is_counted and (latest := looked or read) else "",
        gate,
        has_switch,
        is_counted,
    )


def _serves(end: End, read: Reading | None, last: Reading | None) -> bool | None:
    if end.outcome:
        serves = follows(end.outcome).serves
        if serves and not end.after:  # nothing runs, or the container that was to be adopted
            return read is not None and read.adopted is not None
        if not serves or last is None:
            return serves
    reading = last or read
    if reading is None:
        return None
    if reading.client_sees:
        return reading.client_sees.is_good
    return reading.container is not None and reading.container.serves


def summary(verb: str, hosts: Sequence[Ended], seconds: float, back: str) -> list[str]:
    """A line for each host, and what was done; empty if no host was touched.

    `seconds`: of the run; `back`: the command that goes back.
    """
    done = [each for each in hosts if each.is_done]
    if not any(each.has_switch and each.outcome for each in hosts):
        return []
    ids = shortened((each or "" for it in hosts for each in (it.end.before, it.end.after)), DIGITS)
    lines = table([_cells(each, ids) for each in hosts]).splitlines()
    if not any(each.end.word in {"failed", "blocked"} for each in hosts):
        number = f"{len(done)} host{'s' if len(done) > 1 else ''}"
        can_go_back = verb == "up" and all(
            each.end.before not in {None, each.end.after} for each in done
        )
        hint = f" To go back: {back}" if can_go_back else ""
        lines.append(f"{DONE.get(verb, verb)} {number} in {seconds:.0f} s.{hint}")
    return lines


def _cells(host: Ended, ids: dict[str, str]) -> list[str]:
    end = host.end
    before, after = ids[end.before or ""], ids[end.after or ""]
    is_other = bool(before and after and before != after)
    release = label(host.tag, f"{before} → {after}" if is_other else after or before or NOTHING)
    if not host.has_switch:
        word = "prepared" if end.word == "changes" else str(end.word)
        return [cut(end.host), release, word, "", "", _token(host)]
    seconds = host.gate.seconds if host.is_done else None
    gate = f"gate {seconds:.1f} s" if seconds is not None else ""
    outcome = host.outcome or "not switched"
    issued = f"issued {end.issuances}" if host.is_counted else "issuances are not counted"
    return [cut(end.host), release, outcome, gate, issued, _token(host)]


def _token(host: Ended) -> str:
    if not host.token or not host.serves:
        return ""
    return f"token valid {host.token}" if host.token[0].isdigit() else f"token: {host.token}"


def failure(hosts: Sequence[Ended], again: str, status: str) -> list[str]:
    """Which hosts failed and why, what runs now, and what to type next; empty if none failed.

    `again`, `status`: the commands that repeat this run, and that show the status.
    """
    failed = [each for each in hosts if each.end.word == "failed"]
    blocked = [each for each in hosts if each.end.word == "blocked"]
    if not failed and not blocked:
        return []
    # A host that is not touched because of another one has no cause of its own.
    causes = [each for each in [*failed, *blocked] if not each.end.why.startswith("not touched, ")]
    lines = []
    for each in causes[:HOSTS_EXPLAINED]:
        lines += _explained(each)
    if rest := causes[HOSTS_EXPLAINED:]:
        lines.append(f"and {len(rest)} more: {', '.join(each.end.host for each in rest)}")
    lines.append(what_runs(hosts))
    unknown = [each.end.host for each in hosts if each.serves is None and each.end.word == "failed"]
    look = f"{status}, then " if unknown else ""
    is_known = any(not each.end.why.startswith("interrupted") for each in causes)
    correct = "correct the cause, then " if is_known else ""
    lines.append(f"Next: {look}{correct}{again}")
    return lines


def _explained(host: Ended) -> list[str]:
    end = host.end
    lines = [line.strip() for line in end.why.splitlines() if line.strip()]
    if len(lines) > 1:  # a program's output, and what it means
        lines = [lines[0], lines[-1]]
    state = f" ({host.outcome})" if host.outcome else ""
    first, *more = lines or ["for an unknown reason (see above)"]
    said = [f"{end.host} {end.word}{state}: {first}", *(f"  {line}" for line in more)]
    if host.gate.heard and host.gate.heard not in end.why:
        said.append(f"  last probe: {host.gate.heard}")
    if host.gate.log_error:
        said.append(f"  first error in its log: {host.gate.log_error}")
    return [cut(line, LINE_LIMIT) for line in said]


def what_runs(hosts: Sequence[Ended]) -> str:
    """`Release 1.4 (a1b2) serves on all 4 hosts.`"""
    ids = shortened((each.end.after or "" for each in hosts), DIGITS)
    groups: dict[str, list[str]] = {}
    for host in hosts:
        end = host.end
        release = f"release {label(host.tag, ids[end.after or ''])}"
        if host.serves:
            what = f"{release} serves on" if end.after else "the previous container runs on"
        elif host.serves is None:
            what = "it is not known what serves on"
        else:
            what = f"{release} does not serve on" if end.after else "no gateway runs on"
        groups.setdefault(what, []).append(end.host)
    parts = [f"{what} {_who(names, len(hosts))}" for what, names in groups.items()]
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _who(names: Sequence[str], number: int) -> str:
    if len(names) == number > 1:
        return f"all {number} hosts"
    return ", ".join(names)
