"""Due dates, late days and what they cost. The dates live in nbgrader's gradebook, and nbgrader's late-submission plugin sets the price.

Without a setting lateness costs nothing, as in nbgrader. `course/nbgrader_config.py` may name nbgrader's own plugin
(`c.LateSubmissionPlugin.penalty_method = "zero"`), a class of your own, or `grader.bridge.late_days(per_day=0.1, free_days=2)`.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

DAY_S = 86_400
_OFFSET = re.compile(r"([+-]\d\d):?(\d\d)")


def days_late(seconds_late: float) -> int:
    """Days begun after the due date.

    >>> days_late(0), days_late(1), days_late(86_400), days_late(86_401)
    (0, 1, 1, 2)
    """
    return math.ceil(max(0.0, seconds_late) / DAY_S)


def penalty(score: float, seconds_late: float, *, per_day: float, free_days: int = 0, most: float = 1.0) -> float:
    """Points to take off: `per_day` of the score for each day begun after the free ones, at most the share `most`.

    >>> penalty(10, 3 * 86_400, per_day=0.1, free_days=1)
    2.0

    Raises: ValueError for shares outside 0 to 1 or negative days.
    """
    if not (0 <= per_day <= 1 and 0 <= most <= 1 and free_days >= 0):
        raise ValueError(
            f"per_day and most are shares from 0 to 1 and free_days is at least 0, got {per_day}, {most} and {free_days}"
        )
    return score * min(most, per_day * max(0, days_late(seconds_late) - free_days))


def parse_due(text: str) -> datetime:
    """A due date with its time zone as UTC without a zone, as nbgrader keeps it.

    >>> parse_due("2026-12-01 23:59 Europe/Berlin")
    datetime.datetime(2026, 12, 1, 22, 59)

    Raises: ValueError without a zone or for what is no date; the text says how to write one.
    """
    day, _, zone = text.strip().rpartition(" ")
    try:
        moment = datetime.strptime(day, "%Y-%m-%d %H:%M")
        if _OFFSET.fullmatch(zone):
            moment = datetime.strptime(f"{day} {zone}", "%Y-%m-%d %H:%M %z")
        else:
            moment = moment.replace(tzinfo=ZoneInfo(zone))
    except (ValueError, KeyError, OSError):
        raise ValueError(
            f"a due date is written like '2026-12-01 23:59 Europe/Berlin', '... UTC' or '... +01:00', got {text!r}"
        ) from None
    return moment.astimezone(UTC).replace(tzinfo=None)
