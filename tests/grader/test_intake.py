import json
import os
import socket
import time

import pytest

from grader import intake
from grader.intake import Manifest, odd_name, read_submission

MANIFEST = Manifest(
    assignment="03_norms",
    exercises={"rms_norm": ("rms_norm",), "swiglu": ("swiglu", "swiglu_grad")},
    manual=("derive",),
)
RMS = "def rms_norm(x):\n    return x\n"
SWI = "def swiglu(x): return x\ndef swiglu_grad(x): return x\n"


def cell(source, grade_id=None, kind="code", **metadata):
    if grade_id:
        metadata["nbgrader"] = {"grade_id": grade_id, "solution": True, "schema_version": 3}
    return {"cell_type": kind, "source": source, "metadata": metadata, "outputs": []}


def notebook(*cells, **top):
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": list(cells), **top}


@pytest.fixture
def hand_in(tmp_path):
    def write(content, name="03_norms.ipynb"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return read_submission(path, MANIFEST)

    return write


def kinds(submission):
    return [p.kind for p in submission.problems]


def test_only_the_source_of_known_exercises_is_taken(hand_in):
    got = hand_in(
        notebook(
            cell("import os"),
            cell(RMS, "rms_norm", tags=["skip-execution"]),
            cell("assert True", "judge_rms_norm"),
            cell(["def swiglu(x): return x\n", "def swiglu_grad(x): return x"], "swiglu"),
            cell("because", "derive", kind="markdown"),
            metadata={"kernelspec": {"argv": ["bash"]}},
        )
    )
    assert got.cells == {"rms_norm": RMS, "swiglu": SWI}
    assert got.manual == {"derive": "because\n"}
    assert not got.problems
    assert not got.absent
    assert not got.invalid


def test_equal_answers_have_equal_sums_whatever_surrounds_them(hand_in):
    one = hand_in(notebook(cell(RMS, "rms_norm")))
    two = hand_in(notebook(cell("x"), cell(RMS.replace("\n", "  \r\n") + "\n\n", "rms_norm", collapsed=True)))
    other = hand_in(notebook(cell(RMS + "# more", "rms_norm")))
    assert one.sha256 == two.sha256 != other.sha256
    assert one.file_sha256 != two.file_sha256
    assert one.cell_sha256("rms_norm") == two.cell_sha256("rms_norm")


def test_of_two_copies_the_last_counts(hand_in):
    got = hand_in(notebook(cell("def rms_norm(x): return 1", "rms_norm"), cell(RMS, "rms_norm")))
    assert got.cells["rms_norm"] == RMS
    assert got.cell_problems["rms_norm"] == "rms_norm has 2 cells; the last one is graded."


@pytest.mark.parametrize("kind", ["markdown", "raw", "strange", 7])
def test_a_cell_turned_into_text_is_still_graded(hand_in, kind):
    got = hand_in(notebook(cell(RMS, "rms_norm", kind=kind)))
    assert got.cells["rms_norm"] == RMS
    assert "retyped" in kinds(got)


def test_missing_cells_are_named(hand_in):
    got = hand_in(notebook(cell(RMS), cell(SWI, "swiglu")))
    assert got.absent == {"rms_norm": "missing"}
    assert got.cells == {"swiglu": SWI}
    assert "Another cell defines it" in got.cell_problems["rms_norm"]


@pytest.mark.parametrize(
    "line", ["!rm -rf /", "%matplotlib inline", "%%bash\nls", "  !ls", "%run -i x.py", "%load secrets"]
)
def test_notebook_commands_are_refused(hand_in, line):
    got = hand_in(notebook(cell(f"import math\n{line}\n{RMS}", "rms_norm"), cell(SWI, "swiglu")))
    assert got.absent == {"rms_norm": "refused"}
    assert "line 2 is a notebook command" in got.cell_problems["rms_norm"]
    assert "swiglu" in got.cells


def test_a_remainder_on_a_line_of_its_own_is_no_notebook_command(hand_in):
    source = "def rms_norm(x):\n    return (x\n        % n)\n"
    assert hand_in(notebook(cell(source, "rms_norm"))).cells["rms_norm"] == source


def test_a_renamed_function_is_noticed_and_its_twin_named(hand_in):
    got = hand_in(
        notebook(cell("def rmsnorm(x):\n    return x", "rms_norm"), cell("swiglu = swiglu_grad = len", "swiglu"))
    )
    assert "does not define rms_norm; it defines rmsnorm. Did you mean rmsnorm?" in got.cell_problems["rms_norm"]
    assert "swiglu" not in got.cell_problems
    assert "rms_norm" in got.cells


def test_a_syntax_error_is_left_to_the_sandbox(hand_in):
    got = hand_in(notebook(cell("def rms_norm(x:\n  return", "rms_norm")))
    assert "rms_norm" in got.cells
    assert not got.cell_problems.get("rms_norm")


@pytest.mark.parametrize(
    "source", ["def rms_norm():\n    '\0'", "x = '\ud800'", "x" * 300_000, 7, [["a"]], {"a": 1}, None]
)
def test_sources_that_are_no_text_are_refused_alone(hand_in, source):
    got = hand_in(notebook(cell(source, "rms_norm"), cell(SWI, "swiglu")))
    assert got.absent == {"rms_norm": "refused"}
    assert got.cells == {"swiglu": SWI}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "not_json"),
        (b"  \n", "not_json"),
        (b"{not json", "not_json"),
        (b'{"cells": [', "not_json"),
        (b'"' + b'\\"' * 100_000, "not_json"),
        (b"[]", "not_notebook"),
        (b"7", "not_notebook"),
        (b"[" * 100_000, "not_notebook"),
        (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, "not_notebook"),
        (b"[" + b"[]," * 1_500_000 + b"[]]", "too_big"),
        (b"[" + b"9" * 100_000 + b"]", "not_json"),
        (b'{"cells": [], "cells": [], "nbformat": 4}', "not_json"),
        (json.dumps({"nbformat": 3, "worksheets": []}).encode(), "not_notebook"),
        (json.dumps(notebook(nbformat=3)).encode(), "not_notebook"),
        (json.dumps(notebook(nbformat=99)).encode(), "not_notebook"),
        (json.dumps({"nbformat": 4}).encode(), "not_notebook"),
        (json.dumps({"nbformat": 4, "cells": {"a": 1}}).encode(), "not_notebook"),
        (json.dumps(notebook(*[{}] * 6_000)).encode(), "too_big"),
        (json.dumps(notebook()).encode("utf-16"), "not_json"),
        (b"\xff" + json.dumps(notebook()).encode(), "not_json"),
        (b"PK\x03\x04 a zip", "not_json"),
    ],
    ids=lambda x: repr(x[:20]) if isinstance(x, bytes) else x,
)
def test_what_is_no_notebook_is_invalid_with_one_sentence_and_at_once(hand_in, content, kind):
    start = time.perf_counter()
    got = hand_in(content)
    assert time.perf_counter() - start < 3
    assert kinds(got) == [kind]
    assert got.invalid
    assert got.absent == {"rms_norm": "missing", "swiglu": "missing"}


@pytest.mark.parametrize(
    "source",
    ["\n" * 300_000, " " * 3_000_000, "\n \t" * 300_000 + "def", "def " * 300_000, "x;" * 29_000, "`" * 100_000],
    ids=["empty lines", "blanks", "mixed", "def", "statements", "fences"],
)
def test_reading_takes_a_moment_whatever_a_cell_holds(hand_in, source):
    start = time.process_time()
    hand_in(notebook(cell(source), cell(source[:50_000], "swiglu"), cell(source, "derive", kind="markdown")))
    assert time.process_time() - start < 3


def test_a_byte_order_mark_and_nan_in_an_output_do_no_harm(hand_in):
    content = notebook(cell(RMS, "rms_norm"))
    content["cells"][0]["outputs"] = [{"data": {"x": float("nan")}}]
    assert hand_in(b"\xef\xbb\xbf" + json.dumps(content).encode()).cells["rms_norm"] == RMS


def test_cells_and_metadata_of_strange_types_are_passed_over(hand_in):
    strange = [
        7,
        None,
        [],
        {"metadata": 3, "source": "a"},
        {"metadata": {"nbgrader": [1]}},
        {"metadata": {"nbgrader": {"grade_id": []}}},
    ]
    assert hand_in(notebook(*strange, cell(RMS, "rms_norm"))).cells == {"rms_norm": RMS}


def test_a_file_that_is_too_big_is_not_parsed(hand_in, monkeypatch):
    monkeypatch.setattr(intake, "MAX_BYTES", 1000)
    assert kinds(hand_in(b"[" * 1001)) == ["too_big"]


def test_links_pipes_sockets_and_devices_are_refused_by_name(tmp_path):
    good = tmp_path / "good.ipynb"
    good.write_text(json.dumps(notebook(cell(RMS, "rms_norm"))))
    (tmp_path / "link.ipynb").symlink_to(good)
    (tmp_path / "dangling.ipynb").symlink_to("/etc/shadow")
    os.link(good, tmp_path / "hard.ipynb")
    os.mkfifo(tmp_path / "pipe.ipynb")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.ipynb"))
        for name in ("link", "dangling", "hard", "pipe", "socket"):
            got = read_submission(tmp_path / f"{name}.ipynb", MANIFEST)
            assert kinds(got) == ["not_regular"], name
            assert name in got.problems[0].sentence
            assert not got.cells
    assert kinds(read_submission(type(tmp_path)("/dev/null"), MANIFEST)) == ["not_regular"]


def test_a_folder_is_searched_for_its_notebook_alone(tmp_path):
    (tmp_path / "03_norms.ipynb").write_text(json.dumps(notebook(cell(RMS, "rms_norm"))))
    (tmp_path / "torch.py").write_text("raise SystemExit")
    (tmp_path / "nbgrader_config.py").write_text("raise SystemExit")
    (tmp_path / "leak").symlink_to("/etc")
    (tmp_path / "<img onerror=x>.txt").write_text("")
    got = read_submission(tmp_path, MANIFEST)
    assert got.cells == {"rms_norm": RMS}
    assert sorted(p.sentence for p in got.problems if p.kind == "ignored") == [
        "'<img onerror=x>.txt' is a file whose name holds one of < > & \" | : * ? \\; it is ignored.",
        "'leak' is a symbolic link; it is ignored.",
    ]


def test_a_linked_folder_or_a_missing_file_is_a_problem_and_no_exception(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    assert kinds(read_submission(tmp_path / "linked", MANIFEST)) == ["not_regular"]
    assert kinds(read_submission(tmp_path / "real", MANIFEST)) == ["missing_file"]
    assert kinds(read_submission(tmp_path / "gone.ipynb", MANIFEST)) == ["missing_file"]
    assert read_submission(tmp_path / "nul\0.ipynb", MANIFEST).invalid


@pytest.mark.parametrize(
    "name", ["-x.ipynb", "a\nb.ipynb", "a\u202eb.ipynb", "a" * 250, "a\x1bb", "a<b", "..", "\udcff\udcfe"]
)
def test_odd_names(name):
    assert odd_name(name)


@pytest.mark.parametrize("name", ["03_norms.ipynb", "\u00e9t\u00e9 (1).ipynb", "\u65e5\u672c.ipynb"])
def test_names_that_are_not_odd(name):
    assert odd_name(name) is None
