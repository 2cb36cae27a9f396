"""Due dates: what counts as late, what it costs, and that nbgrader's own plugin decides."""

from datetime import datetime, timedelta

import pytest

from grader import audit, bridge, grading, lateness

SLUG = "01_sums"
ZERO = 'c = get_config()\nc.LateSubmissionPlugin.penalty_method = "zero"\n'
TENTH = "from grader.bridge import late_days\nc = get_config()\nc.AssignLatePenalties.plugin_class = late_days(0.1, free_days=1)\n"
OWN = """
from nbgrader.plugins import LateSubmissionPlugin
c = get_config()

class More(LateSubmissionPlugin):
    def late_submission_penalty(self, student_id, score, total_seconds_late):
        return 1000 if student_id == "ada" else -5

c.AssignLatePenalties.plugin_class = More
"""


def standing(root):
    return {row.student: (row.score, row.penalty) for row in bridge.rows(root, SLUG)}


def make_late(root, days):
    """Sets the due date so that ada's hand-in is this many days late."""
    stamp = next(row.timestamp for row in bridge.rows(root, SLUG) if row.student == "ada")
    bridge.set_due(root, SLUG, stamp - timedelta(days=days))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("2026-12-01 23:59 UTC", datetime(2026, 12, 1, 23, 59)),
        ("2026-07-01 12:00 America/New_York", datetime(2026, 7, 1, 16, 0)),
        ("2026-12-01 00:30 +05:30", datetime(2026, 11, 30, 19, 0)),
    ],
)
def test_due_dates_carry_their_zone(text, want):
    assert lateness.parse_due(text) == want


@pytest.mark.parametrize(
    "text", ["", "tomorrow", "2026-12-01", "2026-12-01 23:59", "2026-13-01 10:00 UTC", "2026-12-01 23:59 ../x"]
)
def test_what_is_no_date_with_a_zone_is_refused(text):
    with pytest.raises(ValueError, match="Europe/Berlin"):
        lateness.parse_due(text)


def test_late_days_and_their_price():
    day = lateness.DAY_S
    assert [lateness.penalty(10, late * day, per_day=0.25, free_days=1, most=0.6) for late in (0, 1, 1.5, 2, 9)] == [
        0,
        0,
        2.5,
        2.5,
        6,
    ]
    with pytest.raises(ValueError, match="shares from 0 to 1"):
        lateness.penalty(1, 1, per_day=10)


@pytest.mark.xdist_group("class")
class TestInTheGradebook:
    def test_without_a_setting_lateness_is_told_and_costs_nothing(self, graded):
        make_late(graded, 2.5)
        grading.grade_assignment(graded, SLUG)
        rows = {row.student: row for row in bridge.rows(graded, SLUG)}
        assert (rows["ada"].penalty, lateness.days_late(rows["ada"].seconds_late)) == (0.0, 3)

    def test_nbgraders_own_plugin_takes_everything(self, graded):
        (graded / "nbgrader_config.py").write_text(ZERO)
        make_late(graded, 1)
        grading.grade_assignment(graded, SLUG)
        assert standing(graded)["ada"] == (0.0, 6.0)
        assert "taken off because it came after the due date" not in _page(graded, "ada", None)
        assert "6 were taken off" in _page(graded, "ada", audit.standings(graded, SLUG)["ada"])

    def test_late_days_are_priced_and_the_same_again_changes_nothing(self, graded):
        (graded / "nbgrader_config.py").write_text(TENTH)
        make_late(graded, 2.5)
        for _ in range(2):
            grading.grade_assignment(graded, SLUG)
            assert standing(graded)["ada"] == (pytest.approx(4.8), pytest.approx(1.2))

    def test_an_extension_or_a_later_due_date_takes_the_penalty_back(self, graded):
        (graded / "nbgrader_config.py").write_text(ZERO)
        make_late(graded, 2)
        bridge.extend(graded, SLUG, "ada", 3)
        bridge.refresh_late_penalties(graded, SLUG)
        scores = standing(graded)
        assert scores["ada"] == (6.0, 0.0)
        assert scores["bao"] == (0.0, 2.0)
        bridge.set_due(graded, SLUG, None)
        bridge.refresh_late_penalties(graded, SLUG)
        assert standing(graded)["bao"] == (2.0, 0.0)

    def test_a_penalty_stays_between_nothing_and_the_score(self, graded):
        (graded / "nbgrader_config.py").write_text(OWN)
        make_late(graded, 1)
        grading.grade_assignment(graded, SLUG)
        scores = standing(graded)
        assert (scores["ada"], scores["bao"]) == ((0.0, 6.0), (2.0, 0.0))

    def test_the_commands(self, graded, llmcourse):
        def run(*words):
            return llmcourse(*words, "--course", str(graded))

        assert run("due", SLUG) == (0, "01_sums has no due date\n")
        assert run("late") == (0, "nobody is late\n")
        assert run("due", SLUG, "2020-01-01 12:00 UTC") == (0, "01_sums is due 2020-01-01 12:00 UTC\n")
        assert "2020-01-01 12:00" in run("late", SLUG)[1]
        assert run("extend", "ada", SLUG, "--days", "3000")[0] == 0
        assert "ada" not in run("late", SLUG)[1]
        assert run("extend", "zoe", SLUG, "--days", "1")[0] == 2
        assert run("due", SLUG, "soon")[0] == 2


def _page(root, student, stands):
    from grader import feedback

    return feedback.page(grading.read_result(root, SLUG, student), "Sums", stands)
