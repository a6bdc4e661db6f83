"""When a rollout may touch what runs: `rollout_window`. Pure; all moments are aware datetimes.

Windows are in Korean time, whatever the zone of this machine or of a host. Korea has had no
daylight saving time since 1988: a fixed offset is enough.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from functools import cache

KOREA = timezone(timedelta(hours=9), "KST")

OUTSIDE_KRX = "outside-krx"
WEEK = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
SATURDAY = WEEK.index("Sat")
DAY = 24 * 60  # minutes
LOOK_AHEAD = 30
"""Days; KRX has never been closed for so long, and no window of a week is closed for longer."""

_TIME = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_DAYS = f"(?:{'|'.join(WEEK)})(?:-(?:{'|'.join(WEEK)}))?"
HOURS = re.compile(f"({_TIME})-({_TIME}|24:00)")
ENTRY = re.compile(f"({_DAYS}(?:,{_DAYS})*)(?: {HOURS.pattern})?")

HOURS_FORM = "must be two times of one day, the earlier first, such as 07:00-20:00"
WINDOW_FORM = (
    f'must be "{OUTSIDE_KRX}", or a list in Korean time such as ["Mon-Fri 20:30-23:00", "Sat,Sun"]'
)
ENTRY_FORM = (
    'must be days (Mon to Sun), and two different times unless it is for complete days: "Sat,Sun", '
    '"Mon-Fri 20:30-23:00", or past midnight "Fri-Mon 22:00-02:00"'
)


@dataclass(frozen=True)
class OutsideKrx:
    """Closed from minute `begin` to minute `end` of KRX's trading days, open at other times."""

    begin: int
    end: int

    def on(self, day: date) -> list[tuple[int, int]]:
        """The minutes from and to which it is open, as it begins on this day."""
        if day.weekday() >= SATURDAY or day in _krx_holidays():
            return [(0, DAY)]
        return [(0, self.begin), (self.end, DAY)]


@dataclass(frozen=True)
class Weekly:
    """Open on days of the week (Monday is 0), each from a minute to a minute of the day.

    A time past midnight belongs to the day on which it begins; its end is above `DAY`.
    """

    entries: tuple[tuple[frozenset[int], int, int], ...]

    def on(self, day: date) -> list[tuple[int, int]]:
        """The minutes from and to which it is open, as it begins on this day."""
        return [(begin, end) for days, begin, end in self.entries if day.weekday() in days]


Window = OutsideKrx | Weekly


def outside_krx(hours: str) -> OutsideKrx:
    """The window outside of these hours, such as `07:00-20:00`, of KRX's trading days.

    Raises:
        ValueError: the hours have another form. No message of this module repeats a value.
    """
    found = HOURS.fullmatch(hours)
    if not found or _minutes(found[1]) >= _minutes(found[2]):
        raise ValueError(HOURS_FORM)
    return OutsideKrx(_minutes(found[1]), _minutes(found[2]))


def weekly(entries: Iterable[object]) -> Weekly:
    """The window of entries such as `Mon-Fri 20:30-23:00` and `Sat,Sun`.

    Raises:
        ValueError: an entry has another form, or there is none.
    """
    parsed = tuple(_entry(number, entry) for number, entry in enumerate(entries, 1))
    if not parsed:
        raise ValueError(WINDOW_FORM)
    return Weekly(parsed)


def _entry(number: int, entry: object) -> tuple[frozenset[int], int, int]:
    found = ENTRY.fullmatch(entry) if isinstance(entry, str) else None
    if not found or (found[2] and found[2] == found[3]):
        raise ValueError(f"entry {number} {ENTRY_FORM}")
    begin, end = (_minutes(found[2]), _minutes(found[3])) if found[2] else (0, DAY)
    return _days(found[1]), begin, end if begin < end else end + DAY


def _days(text: str) -> frozenset[int]:
    """`Mon-Wed,Fri` as numbers; a range may wrap: `Fri-Mon`."""
    days: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        begin, end = WEEK.index(first), WEEK.index(last or first)
        days |= {(begin + more) % 7 for more in range((end - begin) % 7 + 1)}
    return frozenset(days)


def _minutes(time: str) -> int:
    hours, _, minutes = time.partition(":")
    return int(hours) * 60 + int(minutes)


def is_open(window: Window | None, moment: datetime) -> bool:
    """Whether the window is open at this moment; one that is not set always is."""
    return window is None or any(
        begin <= moment < end for begin, end in _openings(window, moment, 0)
    )


def opens_at(window: Window | None, moment: datetime) -> datetime:
    """The first moment from this one on at which the window is open, in Korean time."""
    if window is None or is_open(window, moment):
        return moment.astimezone(KOREA)
    return min(begin for begin, _ in _openings(window, moment, LOOK_AHEAD) if begin > moment)


def closes_at(window: Window | None, moment: datetime) -> datetime | None:
    """The first moment from this one on at which the window is closed, in Korean time.

    None if it stays open for `LOOK_AHEAD` days, as one of all days of the week does.
    """
    if window is None:
        return None
    closing = moment.astimezone(KOREA)
    for begin, end in sorted(_openings(window, moment, LOOK_AHEAD)):
        if begin <= closing < end:
            closing = end
    return None if closing >= moment + timedelta(days=LOOK_AHEAD) else closing


def _openings(window: Window, moment: datetime, days: int) -> list[tuple[datetime, datetime]]:
    """When the window opens and closes, from the day before a moment to some days after it."""
    today = moment.astimezone(KOREA).replace(hour=0, minute=0, second=0, microsecond=0)
    return [
        (midnight + timedelta(minutes=begin), midnight + timedelta(minutes=end))
        for midnight in (today + timedelta(days=number) for number in range(-1, days + 1))
        for begin, end in window.on(midnight.date())
        if begin < end
    ]


@cache
def _krx_holidays() -> Container[date]:
    from holidays import financial_holidays  # takes 0.2 s: only if such a window is set

    return financial_holidays("XKRX")
