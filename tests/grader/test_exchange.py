import os
from datetime import UTC, datetime

import pytest

from grader import exchange


@pytest.fixture
def notebook(tmp_path):
    path = tmp_path / "mine.ipynb"
    path.write_text('{"cells": []}')
    return path


def test_the_newest_hand_in_of_each_student_is_collected_once(small_root, notebook):
    exchange.submit(small_root, "01_sums", notebook, "ada")
    notebook.write_text('{"cells": [1]}')
    exchange.submit(small_root, "01_sums", notebook, "ada")
    exchange.submit(small_root, "01_sums", notebook, "bao")
    assert exchange.collect(small_root, "01_sums") == (["ada", "bao"], [])
    assert (small_root / "submitted/ada/01_sums/01_sums.ipynb").read_text() == '{"cells": [1]}'
    assert exchange.collect(small_root, "01_sums") == ([], ["ada", "bao"])
    assert exchange.submitted(small_root, "01_sums") == ["ada", "bao"]
    assert exchange.timestamp(small_root, "ada", "01_sums").endswith("UTC")


def test_a_time_written_by_a_learner_does_not_count(small_root, notebook):
    folder = exchange.submit(small_root, "01_sums", notebook, "ada")
    (folder / "timestamp.txt").write_text("1999-01-01 00:00:00 UTC")
    exchange.collect(small_root, "01_sums")
    assert not exchange.timestamp(small_root, "ada", "01_sums").startswith("1999")


def test_a_link_in_a_hand_in_is_copied_as_a_link_and_never_followed(small_root, notebook, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    folder = exchange.submit(small_root, "01_sums", notebook, "ada")
    (folder / "01_sums.ipynb").unlink()
    os.symlink(secret, folder / "01_sums.ipynb")
    os.remove(folder / "timestamp.txt")
    os.symlink(secret, folder / "timestamp.txt")
    exchange.collect(small_root, "01_sums")
    assert (small_root / "submitted/ada/01_sums/01_sums.ipynb").is_symlink()
    assert secret.read_text() == "secret"


@pytest.mark.parametrize("name", ["", "../up", "a b", "a+b", "-x", "x" * 65, "\u202e"])
def test_names_that_no_folder_should_have_are_refused(small_root, notebook, name):
    with pytest.raises(ValueError, match="student's name"):
        exchange.submit(small_root, "01_sums", notebook, name)


def test_a_missing_or_huge_notebook_is_refused(small_root, notebook, monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match="no notebook"):
        exchange.submit(small_root, "01_sums", tmp_path / "none.ipynb", "ada")
    monkeypatch.setattr(exchange, "MAX_NOTEBOOK_BYTES", 3)
    with pytest.raises(ValueError, match="clear its outputs"):
        exchange.submit(small_root, "01_sums", notebook, "ada")


def test_nbgrader_reads_the_names_of_hand_ins(small_root, notebook):
    folder = exchange.submit(small_root, "01_sums", notebook, "ada")
    student, assignment, time, random = folder.name.split("+")
    assert (student, assignment, bool(time), bool(random)) == ("ada", "01_sums", True, True)
    assert folder.parent == small_root / "exchange" / "llm_principles" / "inbound"


def inbound(root, name):
    folder = exchange.exchange_root(root) / "inbound" / name
    folder.mkdir(parents=True)
    return folder


def test_what_one_student_leaves_in_the_exchange_stops_nobody(small_root, notebook, tmp_path):
    folder = exchange.submit(small_root, "01_sums", notebook, "eve")
    os.mkfifo(folder / "pipe")
    (folder / "deep/er").mkdir(parents=True)
    (folder / "big").write_bytes(bytes(exchange.MAX_NOTEBOOK_BYTES + 1000))
    other = exchange.submit(small_root, "01_sums", notebook, "fay")
    (other / "01_sums.ipynb").unlink()
    os.link(notebook, other / "01_sums.ipynb")
    pipe = exchange.submit(small_root, "01_sums", notebook, "gus")
    (pipe / "01_sums.ipynb").unlink()
    os.mkfifo(pipe / "01_sums.ipynb")
    exchange.submit(small_root, "01_sums", notebook, "hal")
    assert exchange.collect(small_root, "01_sums")[0] == ["eve", "fay", "gus", "hal"]
    taken = small_root / "submitted"
    assert sorted(p.name for p in (taken / "eve/01_sums").iterdir()) == ["01_sums.ipynb", "big", "timestamp.txt"]
    assert (taken / "eve/01_sums/big").stat().st_size == exchange.MAX_NOTEBOOK_BYTES + 1
    assert not (taken / "fay/01_sums/01_sums.ipynb").exists()
    assert not (taken / "gus/01_sums/01_sums.ipynb").exists()


@pytest.mark.parametrize("time", ["zzz", "9999-01-01 00:00:00 UTC", "2026-01-01", ""])
def test_a_folder_named_with_no_time_or_one_to_come_counts_as_of_now(small_root, time):
    folder = inbound(small_root, f"eve+01_sums+{time}+abc")
    (folder / "01_sums.ipynb").write_text("{}")
    exchange.collect(small_root, "01_sums")
    assert exchange.timestamp(small_root, "eve", "01_sums")[:4] == str(datetime.now(UTC).year)
