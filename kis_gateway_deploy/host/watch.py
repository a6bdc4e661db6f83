"""Starts a container and watches it until the health gate has a verdict."""

from __future__ import annotations

import os
import re
import time
from collections import namedtuple

from .client import ask_health, authority
from .containers import CREDENTIALS, REFUSAL
from .directory import Directory
from .engine import EngineError
from .gate import PATIENCE, History, Observation, Rules, judge
from .hiding import hide
from .neighbour import REFUSE_SECONDS, announce, refuse
from .probe import probe
from .processes import wait_for_end
from .tokens import examine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .control import Control
    from .token_files import TokenFiles
    from .tokens import Evidence

SECOND = 1.0
UNTIL_IT_LISTENS = 0.05
SAY_AGAIN = 10.0
MEANWHILE = 0.005
LOG_LIMIT = 1 << 20
"""Maximum bytes of a log that are searched."""

Seen = namedtuple("Seen", "evidence content stat")


class TokenWatch:
    """Watches the token files while a gateway runs, and counts issuances.

    An issuance is a token that was not there before. KIS returns the same token for six hours
    (FACTS of KIS's token API), so a file that is rewritten with the same token may or may not be an
    issuance. `expected`: how many valid tokens a gateway needs.
    """

    def __init__(self, token_dir: str, files: TokenFiles, expected: int = 1) -> None:
        self.token_dir, self.files, self.expected = token_dir, files, expected
        self.issuances = 0
        self.rewritten = False
        self.last_issued = 0.0  # of time.monotonic
        self.replaced = 0.0
        self.known = self._look({})

    def look(self) -> str:
        """The state of the files together, as in `Observation`; counts new issuances."""
        before, now = self.known, self._look(self.known)
        for name, seen in now.items():
            if seen is before.get(name):
                continue
            if seen.evidence.state == "damaged":
                continue  # it may be half written
            self._compare(before.get(name), seen)
            self.known = self.known | {name: seen}
        return self._state(self.files.together(seen.evidence for seen in now.values()))

    def _compare(self, before: Seen | None, after: Seen) -> None:
        known = [seen.content for seen in self.known.values()]
        tokens = after.evidence.tokens or ()
        new = [token for token in tokens if not any(token in content for content in known)]
        was_there = before is not None and before.evidence.state != "damaged"
        if not was_there and not tokens:
            # A token of unknown form, unless the file may be anything.
            new = [b""] if self.files.form else []
        if new or (not was_there and self.files.is_one):
            self.issuances += max(1, len(new))
            self.last_issued = time.monotonic()
            if before and was_there and not _has_the_last(before, after):
                left = (before.evidence.valid_until or 0) - time.time()
                self.replaced = max(self.replaced, left)
        elif was_there:
            self.rewritten = True

    def _look(self, known: dict[str, Seen]) -> dict[str, Seen]:
        """The files that are there; those in `known` that have not changed are not read again."""
        try:
            with Directory(self.token_dir) as directory:
                names = self.files.names(directory)
                return {
                    name: seen
                    for name in names
                    if (seen := self._seen(directory, name, known.get(name)))
                }
        except OSError:
            return {}

    def _seen(self, directory: Directory, name: str, known: Seen | None) -> Seen | None:
        at = directory.stat(name)
        if at is None:
            return None
        status = at.st_ino, at.st_mtime_ns, at.st_size
        if known and known.stat == status:
            return known
        content = directory.read(name)
        if content is None:
            return Seen(directory.examine(name), b"", status)
        return Seen(examine(content), content, status)  # read once: it may change any time

    def _state(self, evidence: Evidence | None) -> str:
        if evidence is None:
            return "missing"
        if evidence.state != "token":
            return str(evidence.state)
        valid = sum(end > time.time() for end in evidence.expiries)
        return "valid" if valid >= self.expected else "few" if valid else "expired"


def _has_the_last(before: Seen, after: Seen) -> bool:
    """Whether the token that expired last is still in the file, beside a new one."""
    some = any(token in after.content for token in before.evidence.tokens or ())
    return some and before.evidence.valid_until in after.evidence.expiries


class Watch:
    """One health gate. `manifest`: of the release that is started.

    `say` is called with progress messages. `waiting`: the addresses at which clients may wait.
    """

    def __init__(
        self,
        engine: Control,
        container: str,
        manifest: dict[str, Any],
        rules: Rules,
        tokens: TokenWatch,
        say: Callable[[str], None],
        waiting: list[tuple[str, bytes, bytes]],
    ) -> None:
        self.engine, self.container, self.manifest = engine, container, manifest
        self.rules, self.tokens, self.say, self.waiting = rules, tokens, say, waiting
        self.opened = time.monotonic()
        self.started = time.time()
        self.was_refused = 0.0  # of time.monotonic; 0 if it was not
        self.details: dict[str, Any] = {}
        self.log_read = 0.0
        self.log_found = (False, "")
        self.asked = self.next_ask = 0.0  # time.monotonic of the last probe, and of the next
        self.heard = ""
        self.probed = ""  # as `probe` of `Observation`
        # By a gateway that gets a new token after the probe, because KIS has refused the old one,
        # none is replaced without need.
        self.replaced = 0.0
        self.since = self.started

    def run(self, set_aside: Callable[[], float]) -> tuple[bool, str]:
        """Starts the container; returns whether it passed the gate, and the reason.

        `set_aside` sets the token file aside, and returns the seconds until KIS may be asked.
        """
        history = History()
        self._start()
        said_at = 0.0
        while True:
            verdict, history = judge(self._observe(history), history, self.rules)
            if verdict.kind in ("pass", "fail"):
                return verdict.kind == "pass", verdict.reason
            if verdict.kind == "start":
                self.say(f"  {verdict.reason}: starting the gateway again")
                wait_for_kis(verdict.wait, self.say)
                self._start()
                continue
            if verdict.kind == "aside":
                self.say(
                    f"  {verdict.reason}. Its token has expired, or its token file has an unknown "
                    "form: setting the file aside and starting the gateway again, with one "
                    "issuance allowed"
                )
                self.rules = self.rules._replace(has_token=False)
                seconds = set_aside()
                wait_for_kis(seconds, self.say)
                self.opened += seconds  # this wait does not count against the deadline
                self._start()
                continue
            now = time.monotonic() - self.opened
            if now - said_at >= SAY_AGAIN and not self._ends_soon(history, now):
                self.say(f"  {now:.0f} s: {verdict.reason} ({self._limit(history, now)})")
                said_at = now
            self._wait(history)

    def _ends_soon(self, history: History, now: float) -> bool:
        good = 0.0 if history.good_since is None else now - history.good_since
        return bool(0 < good < self.rules.min_healthy < good + SAY_AGAIN / 2)

    def _limit(self, history: History, now: float) -> str:
        """For how long the gate goes on."""
        if history.good_since is not None and now - history.good_since < self.rules.min_healthy:
            good = now - history.good_since
            return f"good for {good:.0f} of {self.rules.min_healthy:g} s"
        return f"waiting until {self.rules.deadline + PATIENCE * history.extended:.0f} s"

    def _start(self) -> None:
        self.started = time.time()
        self.log_read, self.log_found, self.next_ask = 0.0, (False, ""), 0.0
        start_while(self.engine, self.container, lambda: refuse(self.waiting), REFUSE_SECONDS)
        self.details = self.engine.inspect(self.container) or {}
        if self.details:
            announce(self.details)

    def _wait(self, history: History) -> None:
        """Waits until the next observation is due, or the container exits."""
        seconds = max(0.01, min(SECOND, self._due(history) - time.monotonic()))
        process = self.details.get("State", {}).get("Pid")
        if process and self.details["State"].get("Running"):
            if wait_for_end(process, seconds):
                self._wait_for_engine_to_see()
        else:
            time.sleep(seconds)

    def _due(self, history: History) -> float:
        """When the next probe is due (time.monotonic)."""
        if history.good_since is None:
            return self.next_ask
        ends = self.opened + history.good_since + self.rules.min_healthy
        return min(self.next_ask, ends) if self.asked < ends else self.next_ask

    def _wait_for_engine_to_see(self) -> None:
        """Waits until the engine shows the exit, which may be a moment after the process ends."""
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            try:
                details = self.engine.inspect(self.container)
            except EngineError:
                return
            if not details or not details["State"].get("Running"):
                return
            time.sleep(0.02)

    def _observe(self, history: History) -> Observation:
        try:
            details = self.engine.inspect(self.container)
        except EngineError:
            time.sleep(UNTIL_IT_LISTENS * 4)
            return Observation(time.monotonic() - self.opened, "unknown")
        status, answer = "gone", ""
        if details is not None:
            self.details = details
            status = "running" if details["State"].get("Running") else "exited"
        state = self.details.get("State", {})
        now = time.monotonic()
        if status == "running" and self.rules.asks_http and now >= self._due(history):
            answer = self._ask()
        elif not self.rules.asks_http:
            self.asked, self.next_ask = now, now + UNTIL_IT_LISTENS * 4
        if status != "running" or now - self.log_read >= SECOND:
            self._read_log(details is not None)
        token, probed = self.tokens.look(), self.probed
        if not probed:
            self.replaced = self.tokens.replaced
        if self.rules.probes and probed != "done" and history.good_since is not None:
            self._probe()  # counts in the next observation: the token file may be written after it
        refused, credentials = self.log_found
        return Observation(
            time.monotonic() - self.opened,
            status,
            f"{state.get('StartedAt')}",
            state.get("ExitCode", 0),
            (state.get("Health") or {}).get("Status") or "",
            answer,
            self.heard,
            token,
            self.replaced,
            refused,
            credentials,
            probed,
        )

    def _probe(self) -> None:
        client = {"address": self.manifest["address"], "port": self.manifest["port"]}
        found = probe(**client, **self.manifest["probe"])
        self.probed = found["code"] if found["is_accepted"] is False else "done"
        if found["is_accepted"] is None:
            self.say(f"  the probe {self.manifest['probe']['path']}: {found['said']}")

    def _ask(self) -> str:
        client = self.manifest
        self.asked = time.monotonic()
        said = ask_health(client["address"], client["port"], client["health_path"])
        status = said.get("status")
        where = f"http://{authority(client['address'], client['port'])}{client['health_path']}"
        answer = f"HTTP {status}" if status else f"no answer ({said.get('error')})"
        self.heard = f"GET {where}: {answer}"
        self.next_ask = time.monotonic() + (SECOND if status else UNTIL_IT_LISTENS)
        return "good" if status and 200 <= status < 300 else "bad"

    def _read_log(self, is_there: bool) -> None:
        self.log_read = time.monotonic()
        if not is_there:
            return
        try:
            log = self.engine.logs(self.container, self.started, limit=LOG_LIMIT)
        except EngineError:
            return
        text = log.decode("utf-8", "replace")
        credentials = CREDENTIALS.search(text)
        refused = not credentials and REFUSAL.search(text) is not None
        if refused and not self.log_found[0]:
            self.was_refused = time.monotonic()
        self.log_found = refused, credentials[0] if credentials else ""


def start_while(
    engine: Control, container: str, meanwhile: Callable[[], None], seconds: float
) -> None:
    """Starts a container, and meanwhile calls `meanwhile` repeatedly, for at most `seconds`.

    Raises EngineError if it cannot be started.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            engine.start(container)
        except EngineError as error:
            os.write(writing, str(error).encode("utf-8", "replace") or b"unknown reason")
        finally:
            os._exit(0)
    os.close(writing)
    until = time.monotonic() + seconds
    while time.monotonic() < until and not wait_for_end(child, MEANWHILE):
        meanwhile()
    os.waitpid(child, 0)
    with open(reading, "rb") as words:
        why = words.read()
    if why:
        raise EngineError(why.decode("utf-8", "replace"))


def wait_for_kis(seconds: float, say: Callable[[str], None]) -> None:
    """Waits until KIS may be asked again, and says so."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        say(f"  KIS issues one token a minute per app key: waiting {left:.0f} s")
        time.sleep(min(left, SAY_AGAIN))


ERROR = re.compile(
    r"(?<!gunicorn\.)error|exception|traceback|refused|denied|fatal|panic|failed|EGW[0-9]{5}",
    re.IGNORECASE,
)
"""Words of a line with an error. gunicorn's logger of all messages is called `gunicorn.error`."""


def lines_of(log: bytes, hidden: set[str], is_cut: bool) -> list[str]:
    """The log's lines without the strings in `hidden`; those that are empty are left out.

    `is_cut`: whether the log's beginning is missing: its first line may be the rest of a secret.
    """
    if is_cut:
        log = log.partition(b"\n")[2]
    text = log.decode("utf-8", "replace")
    return [line[:300] for line in hide(text, hidden).splitlines() if line.strip()]


def first_error(lines: list[str]) -> str:
    """A log's first line with an error; empty if there is none."""
    return next(filter(ERROR.search, lines), "")


def excerpt(lines: list[str]) -> list[str]:
    """The lines at a log's first error, or else its first lines; and its last lines."""
    last = max(0, len(lines) - 10)
    first = next((n for n, line in enumerate(lines) if ERROR.search(line)), 0)
    shown = list(range(first, min(first + 5, last))) + list(range(last, len(lines)))
    result, before = [], -1
    for number in shown:
        if number != before + 1:
            result.append("...")
        result.append(lines[number])
        before = number
    return result
