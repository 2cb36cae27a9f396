"""Each rule of the linter flags a bad example, and the sound chapter passes them all."""

import re
import shutil

import pytest
from tiny_course import TINY, edit

from tools import build, lint
from tools.chapter import Course

# rule: (file, old text, new text) that break it
BAD_TEXT = [
    ("title", "lesson.py", "*Time: 1 minutes.", "*Takes: 1 minutes."),
    ("title", "lesson.py", "# # 98 Tiny", "# # Tiny"),
    ("lesson-length", "lesson.py", "# %%\nprint", "# %%\n" + "x = 1\n" * 760 + "print"),
    ("parameters", "lesson.py", 'SCALE = "quick"', 'SCALE = "full"'),
    ("parameters", "lesson.py", ' tags=["parameters"]', ""),
    ("exercise-order", "exercises.py", "# %% [markdown]\n# ## 2. Twice, twice\n\n", ""),
    ("docstring", "exercises.py", "Four times `x`, by", "Four times it, by"),
    ("docstring", "exercises.py", "Raises ValueError for an infinite one.", ""),
    ("docstring", "exercises.py", "Twice `x`.\n", "Twice `x`\n"),
    ("docstring", "exercises.py", 'x: float) -> float:\n    """Four', 'x: Tensor) -> Tensor:\n    """Four'),
    ("stub-answer", "exercises.py", "    ### BEGIN SOLUTION\n    return double", "    return double"),
    ("stub-answer", "exercises.py", "    ### BEGIN SOLUTION\n    if", "    y = x + x\n    ### BEGIN SOLUTION\n    if"),
    ("stub-answer", "exercises.py", "Four times `x`", "return double(double(x)). Four times `x`"),
    ("stub-answer", "exercises.py", "import math\n", "import math\n\ndef double(x):\n    return x + x\n"),
    ("check-cell", "exercises.py", "grade(double)", "grade(double)\nx = 1"),
    ("check-cell", "exercises.py", "check(double)", "double(2)"),
    ("false-result", "exercises.py", "grade(double)", "grade(double)\nFalse"),
    ("assert-true", "lesson.py", "print(sum", "assert True\nprint(sum"),
    ("bare-except", "lesson.py", "print(sum", "try:\n    pass\nexcept:\n    pass\nprint(sum"),
    ("stderr", "lesson.py", "print(sum", "import sys\nprint(1, file=sys.stderr)\nprint(sum"),
    ("stderr", "lesson.py", "print(sum", "import warnings\nwarnings.warn('x')\nprint(sum"),
    ("stderr", "lesson.py", "print(sum", "from tqdm import tqdm\nprint(sum"),
    ("ignore-output", "lesson.py", "# %%\nprint(sum", '# %% tags=["nbval-ignore-output"]\nprint(sum'),
    ("ignore-output", "lesson.py", "# %%\nprint(sum", '# %% tags=["nbval-skip"]\nprint(sum'),
    ("ignore-output", "lesson.py", "print(sum", "# NBVAL_SKIP\nprint(sum"),
    ("network", "lesson.py", "print(sum", "import urllib.request\nprint(sum"),
    ("network", "lesson.py", "print(sum", "from urllib import request\nprint(sum"),
    ("machine-path", "lesson.py", "print(sum", "open('/home/me/notes.txt')\nprint(sum"),
    ("machine-path", "lesson.py", "a chapter for tests", "a chapter in /Users/me/course"),
    ("magic", "lesson.py", "print(sum", "!pip install x\nprint(sum"),
    ("alt-text", "lesson.py", "a chapter for tests", "a chapter ![](x.png)"),
    ("decoration", "lesson.py", "print(sum", "# \N{ROCKET} fast\nprint(sum"),
    ("decoration", "lesson.py", "print(sum", "# ==========================\nprint(sum"),
    ("decoration", "exercises.py", "# ## 2. Twice", "# ## \N{ROCKET} 2. Twice"),
    ("claims", "lesson.py", '"C02.01"', '"C02.99"'),
    ("claims", "lesson.py", "variance = ", 'claims.judge("C02.01", confirmed=1 > 0, evidence={"a": 1})\nvariance = '),
    ("typed-verdict", "lesson.py", "confirmed=abs(variance - 1) < 0.05", "confirmed=True"),
    ("build", "exercises.py", 'judge="double"', 'judge="duble"'),
    ("few-misconceptions", "checks.py", "(3, 4, 5, 6, 7)", "(3, 4)"),
    (
        "few-misconceptions",
        "checks.py",
        "    # lint: allow few-misconceptions, it is one call of another exercise\n",
        "",
    ),
    ("few-variants", "checks.py", '("half\'s inverse", "x / 0.5"), ', ""),
    ("hints", "checks.py", '"Add it to itself."', '"return x + x"'),
    ("says", "checks.py", "An infinite x must raise.", "Raise"),
    ("allow", "checks.py", "allow few-misconceptions, it is one call of another exercise", "allow few-misconceptions"),
    ("allow", "checks.py", "allow few-variants", "allow too-few-variants"),
]


def _rules(course: Course) -> list[str]:
    from grader.course import load

    load.cache_clear()
    return [finding.rule for finding in lint.lint_chapter(course, TINY)]


@pytest.mark.parametrize(("rule", "name", "old", "new"), BAD_TEXT)
def test_a_bad_text_is_flagged(course: Course, rule, name, old, new):
    edit(course.text(TINY, name), old, new)
    if rule == "build":
        findings = [finding.rule for finding in lint.lint_course(course, [TINY])]
    else:
        findings = _rules(course)
    assert rule in findings


def _break_output(notebook: build.Notebook, rule: str) -> None:
    cells = {c["source"].split("(")[0]: c for c in build.code_cells(notebook)}
    shown = next(c for c in build.code_cells(notebook) if "figures.interactive" in c["source"])
    printed = cells["print"]
    if rule == "notebook-size":
        printed["outputs"][0]["text"] = "1" * 1_000_001
    elif rule == "output-error":
        printed["outputs"][0]["name"] = "stderr"
    elif rule == "figure-alt":
        shown["outputs"][0]["metadata"].pop("image/png")
    elif rule == "figure-numbers":
        shown["outputs"] = [o for o in shown["outputs"] if o["output_type"] != "stream"]
    elif rule == "few-figures":
        shown["outputs"] = shown["outputs"][-2:]
    elif rule == "claims-output":
        (claim,) = [c for c in build.code_cells(notebook) if "claims.judge" in c["source"]]
        claim["outputs"] *= 2
    elif rule == "output-path":
        printed["outputs"][0]["text"] = "wrote /home/me/notes.txt\n"


@pytest.mark.parametrize("rule", sorted(lint.lint_built.RULES))
def test_a_bad_output_is_flagged(built: Course, tmp_path, rule):
    course = Course(tmp_path / "broken")
    shutil.copytree(built.root, course.root)
    notebook = build.load(course.lesson(TINY))
    _break_output(notebook, rule)
    course.lesson(TINY).write_text(build.dump(notebook))
    assert _rules(course) == [rule]


def test_notebooks_that_do_not_match_are_flagged(built: Course, course: Course):
    findings = lint.lint_course(course, [TINY])
    assert {f.rule for f in findings} == {"built"}
    assert len(findings) == 5


def test_every_rule_has_a_bad_example():
    covered = {rule for rule, *_ in BAD_TEXT} | set(lint.lint_built.RULES) | {"built"}
    assert covered == set(lint.RULES)


def test_the_sound_course_has_no_findings(built: Course, capsys):
    assert lint.main(["--root", str(built.root)]) == 0
    assert capsys.readouterr().out == "0 findings in 1 chapter\n"


def test_a_finding_names_file_line_and_rule(built: Course, tmp_path, capsys):
    course = Course(tmp_path / "broken")
    shutil.copytree(built.root, course.root)
    edit(course.text(TINY, "lesson.py"), "print(sum", "assert True\nprint(sum")
    assert lint.main(["--root", str(course.root)]) == 1
    said = capsys.readouterr().out
    line = course.text(TINY, "lesson.py").read_text().splitlines().index("assert True") + 1
    assert re.search(rf"^course/chapters/98_tiny/lesson\.py:{line}: assert-true: .+; .+$", said, re.MULTILINE)


def test_a_waiver_covers_its_own_cell_only(course: Course):
    waived = "# lint: allow decoration, the lesson is about this sign\n# \N{ROCKET}\n"
    edit(course.text(TINY, "lesson.py"), "print(sum", f"{waived}print(sum")
    assert "decoration" not in _rules(course)
    edit(course.text(TINY, "lesson.py"), "variance = ", "# \N{ROCKET}\nvariance = ")
    assert _rules(course).count("decoration") == 1


def test_right_things_are_not_flagged(course: Course):
    edit(
        course.text(TINY, "lesson.py"),
        "# %%\nprint(sum",
        '# %% tags=["nbval-ignore-output"]\nimport time\n\nstart = time.perf_counter()\n'
        'text = "a family \\N{FAMILY} of signs, \N{ROCKET}, a/b, 3 /2, https://docs.python.org/3/tmp/x"\nprint(sum',
    )
    assert _rules(course) == []
