"""The rollout window: the same in every time zone, at the minute, over a year of KRX."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kis_gateway_deploy.windows import (
    KOREA,
    WEEK,
    Window,
    closes_at,
    is_open,
    opens_at,
    outside_krx,
    weekly,
)

# KRX's holidays of 2026 from Monday to Friday.
HOLIDAYS = {
    *("01-01", "02-16", "02-17", "02-18", "03-02", "05-01", "05-05", "05-25", "06-03", "07-17"),
    *("08-17", "09-24", "09-25", "10-05", "10-09", "12-25", "12-31"),
}
KRX = outside_krx("07:00-20:00")
MINUTE = timedelta(minutes=1)


@pytest.fixture(params=["Asia/Seoul", "UTC", "America/New_York"])
def zone(request: pytest.FixtureRequest) -> Iterator[str]:
    """The time zone of this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


def korean(text: str) -> datetime:
    """A moment of 2026 in Korean time, as a clock of this process's zone shows it."""
    return datetime.fromisoformat(f"2026-{text}").replace(tzinfo=KOREA).astimezone()


def shown(moment: datetime | None) -> str:
    return f"{moment:%m-%d %H:%M}" if moment else "never"


@pytest.mark.usefixtures("zone")
def test_every_day_of_a_year_of_krx_at_its_edges() -> None:
    days = [date(2026, 1, 1) + timedelta(days=number) for number in range(365)]
    trading = [d for d in days if d.weekday() < 5 and f"{d:%m-%d}" not in HOLIDAYS]
    assert len(trading) == 244
    for day in days:
        for clock in ("00:00", "06:59", "07:00", "12:00", "19:59", "20:00", "23:59"):
            closed = day in trading and "07:00" <= clock < "20:00"
            assert is_open(KRX, korean(f"{day:%m-%d} {clock}")) == (not closed), (day, clock)


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize(
    ("now", "opens", "closes"),
    [
        ("11-26 06:59", "11-26 06:59", "11-26 07:00"),
        ("11-26 07:00", "11-26 20:00", "11-26 07:00"),
        ("11-26 19:59:59", "11-26 20:00", "11-26 19:59"),
        ("11-26 20:00", "11-26 20:00", "11-27 07:00"),
        ("11-27 20:00", "11-27 20:00", "11-30 07:00"),  # a weekend
        ("09-23 19:00", "09-23 20:00", "09-23 19:00"),
        ("09-23 20:00", "09-23 20:00", "09-28 07:00"),  # Chuseok
        ("12-30 20:00", "12-30 20:00", "01-04 07:00"),  # the end of the year
        ("06-03 12:00", "06-03 12:00", "06-04 07:00"),  # an election
    ],
)
def test_when_krx_opens_and_closes_the_window(now: str, opens: str, closes: str) -> None:
    moment = korean(now)
    assert shown(opens_at(KRX, moment)) == opens
    assert shown(closes_at(KRX, moment)) == closes


EVENINGS = weekly(["Mon-Fri 20:30-23:00", "Sat,Sun"])
NIGHTS = weekly(["Fri-Mon 22:00-02:00"])


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize(
    ("window", "now", "opens", "closes"),
    [
        (EVENINGS, "11-26 20:29", "11-26 20:30", "11-26 20:29"),  # a Thursday
        (EVENINGS, "11-26 20:30", "11-26 20:30", "11-26 23:00"),
        (EVENINGS, "11-26 22:59", "11-26 22:59", "11-26 23:00"),
        (EVENINGS, "11-26 23:00", "11-27 20:30", "11-26 23:00"),
        (EVENINGS, "11-27 23:00", "11-28 00:00", "11-27 23:00"),
        (EVENINGS, "11-28 00:00", "11-28 00:00", "11-30 00:00"),
        (EVENINGS, "11-30 00:00", "11-30 20:30", "11-30 00:00"),
        (NIGHTS, "11-26 22:00", "11-27 22:00", "11-26 22:00"),
        (NIGHTS, "11-27 01:59", "11-27 22:00", "11-27 01:59"),
        (NIGHTS, "11-27 22:00", "11-27 22:00", "11-28 02:00"),
        (NIGHTS, "11-28 01:59", "11-28 01:59", "11-28 02:00"),
        (NIGHTS, "11-28 02:00", "11-28 22:00", "11-28 02:00"),
        (NIGHTS, "12-01 01:59", "12-01 01:59", "12-01 02:00"),  # the night that began on Monday
        (NIGHTS, "12-01 02:00", "12-04 22:00", "12-01 02:00"),
        (weekly(["Wed"]), "11-26 00:00", "12-02 00:00", "11-26 00:00"),
        (
            weekly(["Thu 22:00-24:00", "Fri 00:00-01:00"]),
            "11-26 23:00",
            "11-26 23:00",
            "11-27 01:00",
        ),
        (
            weekly(["Thu 10:00-10:01", "Thu 10:00-11:00"]),
            "11-26 10:00",
            "11-26 10:00",
            "11-26 11:00",
        ),
        (weekly(["Mon-Sun"]), "11-26 10:00", "11-26 10:00", "never"),
        (outside_krx("00:00-24:00"), "11-26 10:00", "11-28 00:00", "11-26 10:00"),
        (None, "11-26 10:00", "11-26 10:00", "never"),
    ],
)
def test_when_a_window_opens_and_closes(
    window: Window | None, now: str, opens: str, closes: str
) -> None:
    moment = korean(now)
    assert shown(opens_at(window, moment)) == opens
    assert shown(closes_at(window, moment)) == closes
    assert is_open(window, moment) == (opens == now)


@pytest.mark.parametrize(
    ("days", "meant"),
    [
        ("Mon", "Mon"),
        ("Mon-Fri", "Mon Tue Wed Thu Fri"),
        ("Fri-Mon", "Mon Fri Sat Sun"),
        ("Sun-Sat", "Mon Tue Wed Thu Fri Sat Sun"),
        ("Sat-Sat", "Sat"),
        ("Mon,Wed-Thu,Sun", "Mon Wed Thu Sun"),
    ],
)
def test_days_and_ranges_of_days(days: str, meant: str) -> None:
    window = weekly([days])
    monday = korean("11-23 12:00")
    found = [day for number, day in enumerate(WEEK) if is_open(window, monday + timedelta(number))]
    assert found == meant.split()


entries = st.builds(
    lambda first, last, begin, end: (
        f"{first}-{last} {begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"
    ),
    st.sampled_from(WEEK),
    st.sampled_from(WEEK),
    st.integers(0, 719),
    st.integers(720, 1439),
)
windows = st.one_of(st.just(KRX), st.lists(entries, min_size=1, max_size=3).map(weekly))
moments = st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC))


@given(windows, moments)
def test_it_is_open_from_its_opening_until_its_closing(window: Window, moment: datetime) -> None:
    opens = opens_at(window, moment)
    closes = closes_at(window, opens)
    assert closes is not None
    assert moment <= opens < closes
    assert is_open(window, opens)
    assert is_open(window, closes - MINUTE)
    assert not is_open(window, closes)
    if opens > moment:
        assert not is_open(window, moment)
        assert not is_open(window, opens - timedelta(microseconds=1))


@pytest.mark.parametrize(
    "entry",
    [
        *("", "mon", "Mo", "Mon Tue", "Mon-", "-Fri", "Mon,", ",Mon", "Mon-Wed-Fri", " Mon"),
        *("Mon, Tue", "Mon  20:00-21:00", "Mon\n", "20:00-21:00", "Mon 20:00", "Mon\u2013Fri"),
        *("Mon 20-21", "Mon 8:00-9:00", "Mon 20:00-20:00", "Mon 24:00-25:00", "Mon 23:60-23:61"),
        *("Mon 20:00-24:01", "Mon 20:00-21:00 KST", "Mon 2\u0660:00-21:00"),
        *(None, 5, ["Mon"]),
    ],
)
def test_an_entry_of_another_form_is_an_error(entry: object) -> None:
    with pytest.raises(ValueError, match="entry 2 must be days"):
        weekly(["Sat", entry])


@pytest.mark.parametrize(
    "hours",
    ["", "7:00-20:00", "20:00-07:00", "07:00-07:00", "07:00", "07:00-20:00\n", "24:00-24:00"],
)
def test_hours_of_another_form_are_an_error(hours: str) -> None:
    with pytest.raises(ValueError, match="must be two times of one day"):
        outside_krx(hours)
