"""Zips from Canvas and Moodle: whose notebook is whose, which attempt counts, and archives that mean harm."""

import stat
import struct
import zipfile
import zlib

import pytest

from grader import archives, bridge, exchange
from grader.archives import ArchiveRefused, collect, read_roster

SLUG = "01_sums"


@pytest.fixture
def make(tmp_path):
    """`make(name=bytes, ...)` or `make([(ZipInfo or name, bytes), ...])` writes an archive and returns its path."""

    def write(entries, name="all.zip"):
        path = tmp_path / name
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for entry, data in entries.items() if isinstance(entries, dict) else entries:
                file.writestr(entry, data)
        return path

    return write


def taken(root):
    return {p.parent.parent.name: p.read_bytes() for p in (root / "submitted").glob(f"*/{SLUG}/{SLUG}.ipynb")}


def test_canvas_names_become_students(small_root, make):
    path = make(
        {
            "lovelaceada_101_9001_01_sums.ipynb": b"1",
            "baojun_LATE_102_9002_01_sums-2.ipynb": b"2",
            "\u00c5str\u00f6mchi_103_9003_my work.ipynb": b"3",
            "lovelaceada_104_9004_01_sums.ipynb": b"4",
            "lovelaceada_101_9005_notes.pdf": b"5",
            "readme.txt": b"6",
        }
    )
    intake = collect(small_root, SLUG, path)
    assert taken(small_root) == {
        "lovelaceada-101": b"1",
        "baojun-102": b"2",
        "astromchi-103": b"3",
        "lovelaceada-104": b"4",
    }
    assert (intake.late, intake.people["baojun-102"]) == (["baojun-102"], ("102", "baojun"))
    assert len(intake.notes) == 3
    assert "not 01_sums.ipynb; taken as it is" in " ".join(intake.notes)


@pytest.mark.parametrize(
    "name",
    [
        "Ada Lovelace_7_assignsubmission_file_/01_sums.ipynb",
        "Ada Lovelace_7_assignsubmission_file/01_sums.ipynb",
        "Ada Lovelace_7_assignsubmission_file_01_sums.ipynb",
        "Course-Sums-42/Ada Lovelace_7_assignsubmission_file_/01_sums.ipynb",
        "Ada Lovelace_7_assignsubmission_file_/deep/er/01_sums.ipynb",
    ],
)
def test_moodle_names_become_students(small_root, make, name):
    path = make({name: b"1", "Ada Lovelace_7_assignsubmission_onlinetext_/onlinetext.html": b"2"})
    collect(small_root, SLUG, path)
    assert taken(small_root) == {"adalovelace-7": b"1"}


@pytest.mark.parametrize(
    "name",
    [
        "eve_5_77_bao_6_78_01_sums.ipynb",
        "eve_5_77_bao_6_assignsubmission_file_01_sums.ipynb",
        "eve_5_assignsubmission_file_bao_6_assignsubmission_file_01_sums.ipynb",
        "eve_5_assignsubmission_file_/bao_6_assignsubmission_file_01_sums.ipynb",
        "eve_5_assignsubmission_file_/6_78_01_sums.ipynb",
        "eve_5_assignsubmission_file_bao_6_78_01_sums.ipynb",
        "eve_LATE_5_77_bao_LATE_6_78_01_sums.ipynb",
    ],
)
def test_a_file_name_cannot_hand_in_for_somebody_else(small_root, make, name):
    collect(small_root, SLUG, make({name: b"1"}))
    assert taken(small_root) == {"eve-5": b"1"}


def test_of_several_notebooks_the_one_named_as_the_assignment_and_the_latest_attempt_counts(small_root, make):
    names = ["01_sums.ipynb", "01_sums-2.ipynb", "01_sums-10.ipynb", "scratch-99.ipynb", "01_sums (3).ipynb"]
    collect(small_root, SLUG, make({f"ada_1_{n}_{name}": name.encode() for n, name in enumerate(names)}))
    assert taken(small_root) == {"ada-1": b"01_sums-10.ipynb"}


def test_the_same_archive_again_changes_nothing(small_root, make):
    path = make({"ada_1_2_01_sums.ipynb": b"1"})
    assert collect(small_root, SLUG, path).collected == ["ada-1"]
    before = (small_root / "submitted/ada-1" / SLUG / f"{SLUG}.ipynb").stat().st_mtime_ns
    again = collect(small_root, SLUG, path)
    assert (again.collected, again.unchanged) == ([], ["ada-1"])
    assert (small_root / "submitted/ada-1" / SLUG / f"{SLUG}.ipynb").stat().st_mtime_ns == before
    assert exchange.timestamp(small_root, "ada-1", SLUG) is None
    assert exchange.submitted(small_root, SLUG) == ["ada-1"]


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def bad_archives():
    good = ("ada_1_2_01_sums.ipynb", b"{}")
    yield "leads out", [good, ("../eve_1_2_01_sums.ipynb", b"")]
    yield "leads out", [good, ("a/../../eve_1_2_01_sums.ipynb", b"")]
    yield "leads out", [good, ("/etc/eve_1_2_01_sums.ipynb", b"")]
    yield "leads out", [good, ("C:/eve_1_2_01_sums.ipynb", b"")]
    yield "characters that no file name", [good, ("..\\eve_1_2_01_sums.ipynb", b"")]
    yield "characters that no file name", [good, ("eve_1_2_\x1b[31m01_sums.ipynb", b"")]
    yield "characters that no file name", [good, ("eve\n_1_2_01_sums.ipynb", b"")]
    yield "a link or a device", [good, (link("eve_3_4_01_sums.ipynb"), b"/etc/passwd")]
    yield "stands twice", [good, ("ADA_1_2_01_SUMS.IPYNB", b"")]
    yield "stands twice", [("e\u0301_1_2_01_sums.ipynb", b""), ("\u00e9_1_2_01_sums.ipynb", b"")]
    yield "far more than any notebook", [good, ("eve_1_3_01_sums.ipynb", bytes(30 << 20))]
    yield "too long", [good, ("e" * 501 + "_1_3_01_sums.ipynb", b"")]


@pytest.mark.parametrize(("says", "entries"), list(bad_archives()), ids=lambda x: x if isinstance(x, str) else "")
def test_an_archive_that_no_platform_writes_is_refused_as_a_whole(small_root, make, says, entries):
    with pytest.raises(ArchiveRefused, match=says):
        collect(small_root, SLUG, make(entries))
    assert not (small_root / "submitted").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused(small_root, make):
    with pytest.raises(ArchiveRefused, match="stands twice"):
        collect(small_root, SLUG, make([("ada_1_2_01_sums.ipynb", b"1"), ("ada_1_2_01_sums.ipynb", b"2")]))


def test_too_many_members_and_too_much_in_all_are_refused(small_root, make, monkeypatch):
    path = make({f"s{n}_{n}_1_01_sums.ipynb": b"12345" for n in range(20)})
    monkeypatch.setattr(archives, "MAX_TOTAL_BYTES", 99)
    with pytest.raises(ArchiveRefused, match="unpacks to 100 bytes"):
        collect(small_root, SLUG, path)
    monkeypatch.setattr(archives, "MAX_MEMBERS", 19)
    with pytest.raises(ArchiveRefused, match="20 members"):
        collect(small_root, SLUG, path)
    monkeypatch.setattr(archives, "MAX_ARCHIVE_BYTES", 10)
    with pytest.raises(ArchiveRefused, match="in parts"):
        collect(small_root, SLUG, path)


def test_a_huge_notebook_costs_its_own_student_alone(small_root, make, monkeypatch):
    monkeypatch.setattr(exchange, "MAX_NOTEBOOK_BYTES", 1000)
    intake = collect(small_root, SLUG, make({"ada_1_2_01_sums.ipynb": b"x" * 1001, "bao_2_3_01_sums.ipynb": b"y"}))
    assert list(taken(small_root)) == ["bao-2"]
    assert "more than 1,000 bytes" in intake.notes[0]


def test_a_false_size_or_a_broken_stream_is_no_sound_zip(small_root, make):
    path = make({"ada_1_2_01_sums.ipynb": b"x" * 5000})
    whole = bytearray(path.read_bytes())
    at = whole.index(b"PK\x01\x02")
    whole[at + 24 : at + 28] = struct.pack("<I", 10)  # the list says 10 bytes
    path.write_bytes(whole)
    with pytest.raises(ArchiveRefused, match="no sound zip"):
        collect(small_root, SLUG, path)
    for data in (b"", b"PK\x03\x04", b"x" * 1000, zlib.compress(b"x")):
        path.write_bytes(data)
        with pytest.raises(ArchiveRefused, match="no sound zip"):
            collect(small_root, SLUG, path)


def test_an_encrypted_member_is_refused(small_root, make):
    path = make({"ada_1_2_01_sums.ipynb": b"x"})
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(whole)
    with pytest.raises(ArchiveRefused, match="encrypted"):
        collect(small_root, SLUG, path)


def test_a_link_in_the_place_of_a_submission_is_replaced_and_not_followed(small_root, make, tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("mine")
    folder = small_root / "submitted/ada-1" / SLUG
    folder.mkdir(parents=True)
    (folder / f"{SLUG}.ipynb").symlink_to(outside)
    collect(small_root, SLUG, make({"ada_1_2_01_sums.ipynb": b"new"}))
    assert outside.read_text() == "mine"
    assert not (folder / f"{SLUG}.ipynb").is_symlink()


CANVAS = 'Student,ID,SIS User ID,SIS Login ID,Section\n    Points Possible,,,,\n"Lovelace, Ada",101,x,ada,1\n'
MOODLE = "\ufeffIdentifier,Full name,Email address\nParticipant 7,Ada Lovelace,ada@example.org\n"


def test_rosters_give_logins(small_root, make, tmp_path):
    roster = tmp_path / "roster.csv"
    roster.write_text(CANVAS)
    assert read_roster(roster) == {"101": "ada"}
    collect(small_root, SLUG, make({"lovelaceada_101_9_01_sums.ipynb": b"1", "bao_5_6_01_sums.ipynb": b"2"}), roster)
    assert set(taken(small_root)) == {"ada", "bao-5"}
    roster.write_text(MOODLE)
    assert read_roster(roster) == {"7": "ada"}


def test_what_is_no_roster_or_would_mix_people_up_is_refused(tmp_path):
    roster = tmp_path / "roster.csv"
    for text in ("", "a,b\n1,2\n", "Identifier\nParticipant 1\n"):
        roster.write_text(text)
        with pytest.raises(ValueError, match="is no roster"):
            read_roster(roster)
    roster.write_text(MOODLE + "Participant 8,Ada Byron,ada@example.com\n")
    with pytest.raises(ValueError, match="two people the same login"):
        read_roster(roster)
    with pytest.raises(FileNotFoundError):
        read_roster(tmp_path / "none.csv")


def test_a_login_that_no_folder_should_have_is_left_out(small_root, make, tmp_path):
    roster = tmp_path / "roster.csv"
    roster.write_text("ID,SIS Login ID\n1,../ada\n")
    intake = collect(small_root, SLUG, make({"ada_1_2_01_sums.ipynb": b"1"}), roster)
    assert taken(small_root) == {}
    assert "no student's name" in intake.notes[0]


@pytest.mark.xdist_group("class")
def test_from_the_zip_to_the_csv_that_canvas_imports(released_course, make, tmp_path, llmcourse):
    import shutil

    root = tmp_path / "course"
    shutil.copytree(released_course, root)
    path = make({"lovelaceada_101_9_01_sums.ipynb": (root / "release" / SLUG / f"{SLUG}.ipynb").read_bytes()})
    code, text = llmcourse("collect", SLUG, "--zip", str(path), "--course", str(root))
    assert (code, text) == (0, "01_sums: 1 collected, 0 had nothing newer\n")
    assert llmcourse("grade", SLUG, "--course", str(root))[0] == 0
    code, text = llmcourse(
        "export", SLUG, "--format", "canvas", "--column", f"{SLUG}=Sums (12345)", "--course", str(root)
    )
    assert text.splitlines() == [
        "Student,ID,SIS User ID,SIS Login ID,Section,Sums (12345)",
        "    Points Possible,,,,,9",
        "lovelaceada,101,,,,0",
    ]
    assert bridge.rows(root, SLUG)[0].lms_id == "101"
    assert llmcourse("collect", "--zip", str(path), "--course", str(root))[0] == 2
    assert llmcourse("export", "--column", "x=y", "--course", str(root))[0] == 2
