"""A learner's copies survive every kind of update, and every kind of interruption."""

import contextlib
import json
import os
from pathlib import Path

import pytest

from grader import workspace
from grader.workspace import STATE_FILE, fingerprint, prepare, summary

LESSON = "lessons/01_x.ipynb"
ASSIGNMENT = "assignments/01_x/01_x.ipynb"


def notebook(*sources: str, output: str = "") -> bytes:
    outputs = [{"output_type": "stream", "name": "stdout", "text": output}] if output else []
    cells = [{"cell_type": "code", "source": text, "outputs": outputs, "metadata": {}} for text in sources]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode()


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """A course folder with one lesson, one released assignment and a glossary."""
    root = tmp_path / "repository" / "course"
    (root / "release" / "01_x").mkdir(parents=True)
    (root.parent / "lessons").mkdir()
    (root.parent / LESSON).write_bytes(notebook("one"))
    (root / "release" / "01_x" / "01_x.ipynb").write_bytes(notebook("stub"))
    (root / "glossary.md").write_text("words\n")
    return root


@pytest.fixture
def mine(tmp_path: Path, course: Path) -> Path:
    """A workspace that was filled once."""
    prepare(tmp_path / "my_course", course)
    return tmp_path / "my_course"


def update(course: Path, content: bytes) -> None:
    (course.parent / LESSON).write_bytes(content)


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_first_run_places_everything(tmp_path: Path, course: Path):
    done = prepare(tmp_path / "new", course)
    assert done.placed == [LESSON, ASSIGNMENT, "glossary.md"]
    assert (tmp_path / "new" / ASSIGNMENT).read_bytes() == notebook("stub")
    assert summary(done) == "your copies: 3 new"


def test_a_second_run_changes_nothing(mine: Path, course: Path):
    before = files(mine)
    done = prepare(mine, course)
    assert files(mine) == before
    assert summary(done) == "your copies: everything up to date"


def test_an_untouched_file_is_renewed(mine: Path, course: Path):
    update(course, notebook("two"))
    assert prepare(mine, course).renewed == [LESSON]
    assert (mine / LESSON).read_bytes() == notebook("two")
    assert not (mine / ".before_update").exists()


def test_an_edited_file_stays_and_the_new_version_is_placed_beside(mine: Path, course: Path):
    (mine / LESSON).write_bytes(notebook("mine"))
    update(course, notebook("two"))
    done = prepare(mine, course)
    assert (mine / LESSON).read_bytes() == notebook("mine")
    assert (mine / "lessons/01_x.updated.ipynb").read_bytes() == notebook("two")
    assert done.messages == [f"{LESSON} has your changes and stays; the new version is beside it as 01_x.updated.ipynb"]


def test_an_edited_file_without_news_is_left_in_peace(mine: Path, course: Path):
    (mine / LESSON).write_bytes(notebook("mine"))
    done = prepare(mine, course)
    assert (done.kept, done.messages) == ([LESSON], [])


def test_a_run_alone_is_no_edit_and_its_outputs_are_kept_aside(mine: Path, course: Path):
    (mine / LESSON).write_bytes(notebook("one", output="an hour's work"))
    assert summary(prepare(mine, course)) == "your copies: everything up to date"
    assert b"an hour" in (mine / LESSON).read_bytes()
    update(course, notebook("two"))
    assert prepare(mine, course).renewed == [LESSON]
    assert (mine / LESSON).read_bytes() == notebook("two")
    assert b"an hour" in (mine / ".before_update" / LESSON).read_bytes()


def test_new_outputs_of_the_same_text_reach_only_a_file_that_was_not_run(mine: Path, course: Path):
    update(course, notebook("one", output="fresh"))
    prepare(mine, course)
    assert b"fresh" in (mine / LESSON).read_bytes()
    (mine / LESSON).write_bytes(notebook("one", output="my run"))
    update(course, notebook("one", output="fresher"))
    prepare(mine, course)
    assert b"my run" in (mine / LESSON).read_bytes()


def test_the_offer_follows_later_updates(mine: Path, course: Path):
    (mine / LESSON).write_bytes(notebook("mine"))
    for text in ("two", "three"):
        update(course, notebook(text))
        prepare(mine, course)
    assert (mine / "lessons/01_x.updated.ipynb").read_bytes() == notebook("three")
    assert not (mine / "lessons/01_x.updated-2.ipynb").exists()


def test_an_offer_that_the_learner_edited_is_kept_too(mine: Path, course: Path):
    (mine / LESSON).write_bytes(notebook("mine"))
    update(course, notebook("two"))
    prepare(mine, course)
    (mine / "lessons/01_x.updated.ipynb").write_bytes(notebook("two and mine"))
    update(course, notebook("three"))
    prepare(mine, course)
    assert (mine / "lessons/01_x.updated.ipynb").read_bytes() == notebook("two and mine")
    assert (mine / "lessons/01_x.updated-2.ipynb").read_bytes() == notebook("three")


def test_an_offer_that_was_deleted_does_not_come_back(mine: Path, course: Path):
    (mine / LESSON).write_bytes(notebook("mine"))
    update(course, notebook("two"))
    prepare(mine, course)
    (mine / "lessons/01_x.updated.ipynb").unlink()
    assert prepare(mine, course).messages == []
    assert not (mine / "lessons/01_x.updated.ipynb").exists()


def test_taking_the_new_version_over_makes_the_file_untouched_again(mine: Path, course: Path):
    (mine / LESSON).write_bytes(notebook("mine"))
    update(course, notebook("two"))
    prepare(mine, course)
    os.replace(mine / "lessons/01_x.updated.ipynb", mine / LESSON)
    prepare(mine, course)
    update(course, notebook("three"))
    assert prepare(mine, course).renewed == [LESSON]


def test_a_deleted_file_comes_back(mine: Path, course: Path):
    (mine / LESSON).unlink()
    assert prepare(mine, course).placed == [LESSON]


def test_a_file_of_the_learners_own_is_never_touched(mine: Path, course: Path):
    own = mine / "lessons" / "02_new.ipynb"
    own.write_bytes(notebook("my own notes"))
    (course.parent / "lessons" / "02_new.ipynb").write_bytes(notebook("a new lesson"))
    prepare(mine, course)
    assert own.read_bytes() == notebook("my own notes")
    assert (mine / "lessons" / "02_new.updated.ipynb").read_bytes() == notebook("a new lesson")


@pytest.mark.parametrize("damage", ["", "{not json", "[]", '{"files": [1]}'])
def test_a_damaged_record_keeps_everything_as_the_learners(mine: Path, course: Path, damage: str):
    (mine / STATE_FILE).write_text(damage)
    (mine / LESSON).write_bytes(notebook("mine"))
    update(course, notebook("two"))
    done = prepare(mine, course)
    assert (mine / LESSON).read_bytes() == notebook("mine")
    assert "cannot be read" in done.messages[0]


def test_a_broken_notebook_counts_as_edited(mine: Path, course: Path):
    (mine / LESSON).write_bytes(b'{"cells": [1')
    update(course, notebook("two"))
    prepare(mine, course)
    assert (mine / LESSON).read_bytes() == b'{"cells": [1'


def test_no_lessons_says_what_to_do(tmp_path: Path):
    (tmp_path / "course").mkdir()
    with pytest.raises(FileNotFoundError, match="run `make notebooks`"):
        prepare(tmp_path / "mine", tmp_path / "course")


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("write", range(5))
def test_a_stop_at_any_write_loses_nothing(
    mine: Path, course: Path, monkeypatch, write: int, moment: str, edited: bool
):
    """Killed before or after the n-th rename of an update, then run again: as if it had never been killed."""
    if edited:
        (mine / LESSON).write_bytes(notebook("mine"))
    update(course, notebook("two"))
    (course / "release/01_x/01_x.ipynb").write_bytes(notebook("new stub"))
    (course / "glossary.md").write_text("more words\n")
    renames, replace = [], os.replace

    def interrupted(source, target):
        if len(renames) == write and moment == "before":
            raise Killed
        replace(source, target)
        renames.append(target)
        if len(renames) == write + 1 and moment == "after":
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(workspace.os, "replace", interrupted)
        with contextlib.suppress(Killed):
            prepare(mine, course)
        for name, content in files(mine).items():
            assert name.startswith(".") or content in (
                notebook("one"),
                notebook("mine"),
                notebook("two"),
                notebook("stub"),
                notebook("new stub"),
                b"words\n",
                b"more words\n",
            )
    prepare(mine, course)
    wanted = {
        LESSON: notebook("mine" if edited else "two"),
        ASSIGNMENT: notebook("new stub"),
        "glossary.md": b"more words\n",
    }
    if edited:
        wanted["lessons/01_x.updated.ipynb"] = notebook("two")
    assert {name: content for name, content in files(mine).items() if name != STATE_FILE} == wanted
    before = files(mine)
    prepare(mine, course)
    assert files(mine) == before


def test_what_a_killed_run_left_behind_is_cleared_later(mine: Path, course: Path):
    left, young = mine / "lessons" / ".a.part", mine / "lessons" / ".b.part"
    left.write_text("half")
    young.write_text("half")
    os.utime(left, (1, 1))
    prepare(mine, course)
    assert (left.exists(), young.exists()) == (False, True)


def test_the_fingerprint_sees_text_and_attachments_and_not_outputs():
    assert fingerprint(notebook("a")) == fingerprint(notebook("a", output="b"))
    assert fingerprint(notebook("a")) != fingerprint(notebook("a", "b"))
    pasted = json.loads(notebook("a"))
    pasted["cells"][0]["attachments"] = {"image.png": {"image/png": "aa"}}
    assert fingerprint(notebook("a")) != fingerprint(json.dumps(pasted).encode())
