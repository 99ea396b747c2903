"""The time in the prefix of a log line, as seconds since the start."""

from __future__ import annotations

_DAYS = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)  # before each month, of a year that is not a leap year


class Clock:
    """Seconds since the start: the first `Solving`, or the first stamp where there is none.

    Without a year in the prefix, a month that goes back starts the next year, and a 29 February is a day like others.
    """

    def __init__(self) -> None:
        self.start: float | None = None
        self.solving = False
        self.first: int | None = None
        self.dates: dict[str, int] = {}
        self.year, self.month = 2001, 0
        self.today, self.leap_days = 0, 0

    def read(self, date: str, time: str) -> float:
        """date: `mmdd` or `yyyymmdd`; time: `hh:mm:ss.micros`."""
        hours, minutes, seconds = time.split(":")
        now = self.date(date) + int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        if self.start is None:
            self.start = now
        return now - self.start

    def date(self, date: str) -> int:
        """Seconds at the beginning of a date, counted from the first date: small numbers keep the microseconds.

        A damaged date is the date before it.
        """
        if date not in self.dates:
            if not 1 <= int(date[-4:-2]) <= 12:
                return self.today
            day = self._day(date)
            self.first = day if self.first is None else self.first
            self.dates[date] = (day - self.first) * 86400
        self.today = self.dates[date]
        return self.today

    def solve(self, date: str, time: str) -> None:
        """The time of a `Solving` line; the first one is the start, as for Caffe's own parser."""
        if not self.solving:
            self.solving, self.start = True, None
            self.read(date, time)

    def _day(self, date: str) -> int:
        month, day = int(date[-4:-2]), int(date[-2:])
        if len(date) == 8:
            self.year = int(date[:4])
        elif month < self.month - 6:
            self.year += 1
        self.month = month
        leap = self.year % 4 == 0 and (self.year % 100 != 0 or self.year % 400 == 0)
        years = self.year - 1
        day += years * 365 + years // 4 - years // 100 + years // 400 + _DAYS[month - 1] + (leap and month > 2)
        if date == "0229":  # the days after it, as yet unseen, come a day later than in the years counted here
            self.leap_days += 1
            return day + self.leap_days - 1
        return day + self.leap_days
