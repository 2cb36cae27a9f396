import json
import subprocess
import sys

import pytest

from grader.ledger import GENESIS, Ledger, LedgerError, verify


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "run" / "ledger.jsonl"
    with Ledger(path) as ledger:
        ledger.append({"student": "a", "points": 1.5})
        ledger.append({"student": "b", "points": 0.1}, {"student": "c", "text": "\u00e9\n=cmd"})
    return path


def test_records_are_chained_and_numbered(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [r["n"] for r in lines] == [0, 1, 2]
    assert lines[0]["previous"] == GENESIS
    assert [r["previous"] for r in lines[1:]] == [r["hash"] for r in lines[:2]]
    found = verify(path)
    assert found.ok
    assert (found.records, found.head) == (3, lines[-1]["hash"])


def test_a_ledger_goes_on_where_it_stopped(path):
    with Ledger(path) as ledger:
        assert [r["student"] for r in ledger] == ["a", "b", "c"]
        ledger.append({"student": "d"})
        assert len(ledger) == 4
    assert verify(path).records == 4


@pytest.mark.parametrize("cut", range(1, 40, 7))
def test_a_torn_last_line_is_cut_off_and_nothing_else(path, cut):
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    found = verify(path)
    assert found.ok
    assert found.records == 2
    assert found.torn_bytes > 0
    with Ledger(path) as ledger:
        assert [r["student"] for r in ledger] == ["a", "b"]
        ledger.append({"student": "e"})
    assert verify(path).records == 3


def test_a_cut_just_before_the_newline_is_torn_too(path):
    path.write_bytes(path.read_bytes()[:-1])
    with Ledger(path) as ledger:
        assert len(ledger) == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda lines: [lines[0], lines[1].replace(b"0.1", b"9.9"), lines[2]], "record 1 (line 2) was edited"),
        (lambda lines: [lines[0], lines[2]], "record 1 (line 2) does not follow the one before"),
        (lambda lines: [lines[1], lines[0], lines[2]], "record 0 (line 1) does not follow"),
        (lambda lines: [*lines, lines[2]], "record 3 (line 4) does not follow"),
        (lambda lines: [lines[0], b"\n", lines[1], lines[2]], "record 1 (line 2) is no record"),
        (lambda lines: [lines[0], b'{"hash": NaN}\n', lines[2]], "record 1 (line 2) is no record"),
        (lambda lines: [b"[" * 100_000 + b"\n", *lines], "record 0 (line 1) is no record"),
        (lambda lines: [lines[0].replace(b'"n":0', b'"n":1'), *lines[1:]], "record 0 (line 1) does not follow"),
    ],
)
def test_the_first_bad_record_is_named_and_grading_into_it_refused(path, change, says):
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    found = verify(path)
    assert not found.ok
    assert says in found.bad
    with pytest.raises(LedgerError, match="is broken"):
        Ledger(path)


def test_records_cut_off_the_end_show_by_the_noted_head(path):
    head = verify(path).head
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    assert verify(path).ok
    assert "is gone" in verify(path, head=head).bad


def test_an_earlier_head_is_still_found(path):
    head = verify(path).head
    with Ledger(path) as ledger:
        ledger.append({"student": "d"})
    assert verify(path, head=head).ok


def test_with_a_key_nobody_else_can_write_a_chain(tmp_path):
    path = tmp_path / "l"
    with Ledger(path, key=b"secret") as ledger:
        ledger.append({"a": 1})
    assert verify(path, key=b"secret").ok
    assert "was edited" in verify(path, key=b"other").bad
    assert not verify(path).ok


@pytest.mark.parametrize("record", [{"n": 1}, {"hash": ""}, {"x": float("nan")}, {"x": object()}])
def test_what_cannot_be_recorded_leaves_the_ledger_as_it_was(path, record):
    before = path.read_bytes()
    with Ledger(path) as ledger:
        with pytest.raises((ValueError, TypeError)):
            ledger.append({"student": "fine"}, record)
        assert len(ledger) == 3
    assert path.read_bytes() == before


def test_a_second_grader_is_refused_until_the_first_is_done(path):
    with Ledger(path), pytest.raises(LedgerError, match="another grader is writing"):
        Ledger(path)
    Ledger(path).close()


def test_a_killed_writer_leaves_whole_records_and_at_most_one_torn_line(tmp_path):
    path = tmp_path / "l.jsonl"
    code = (
        "import sys, pathlib\nfrom grader.ledger import Ledger\nledger = Ledger(pathlib.Path(sys.argv[1]))\n"
        "n = 0\nwhile True:\n    ledger.append({'k': n})\n    n += 1\n    if n == 20: print('twenty', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.kill()
    assert verify(path).ok
    with Ledger(path) as ledger:
        assert [r["k"] for r in ledger][:20] == list(range(20))
