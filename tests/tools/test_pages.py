"""The start page and the page of claims say what is there, and what is not there yet."""

from tiny_course import TINY, edit

from tools import build, pages
from tools.chapter import Course


def _text(made: build.Notebook) -> str:
    return "\n\n".join(cell["source"] for cell in made["cells"])


def test_the_syllabus_plans_eight_chapters(course: Course):
    assert [plan.slug[:2] for plan in pages.syllabus(course)] == [f"0{n}" for n in range(1, 9)]


def test_the_map_links_what_exists_and_names_the_rest_as_planned(course: Course):
    edit(course.folder / "syllabus.md", "| 03_norms | Keeping signals in range |", f"| {TINY} | Tiny |")
    text = _text(pages.start_page(course))
    assert f"| 98 | [Tiny: a chapter for tests]({TINY}.ipynb) |" in text
    assert f"| 1 | nothing | [2 exercises](../assignments/{TINY}/{TINY}.ipynb) |" in text
    assert text.count("| planned |") == 7


def test_the_start_page_counts_progress_in_a_cell_that_was_not_run(course: Course):
    (cell,) = build.code_cells(pages.start_page(course))
    assert "progress()" in cell["source"]
    assert cell["execution_count"] is None


def test_claims_come_from_the_outputs_of_the_built_lesson(built: Course):
    text = _text(pages.claims_page(built))
    assert "| C02.01 |" in text
    assert "confirmed | variance / d\\_k = 1.005 |" in text
    assert "| 02 Why the square root | 17 | 1 | 0 | 0 | 16 |" in text
    assert "- C02.01:" not in text
    assert "- C02.02:" in text


def test_without_lessons_every_claim_is_open(course: Course):
    from llmcore.claims import CLAIMS

    text = _text(pages.claims_page(course))
    assert "No lesson has recorded one yet." in text
    assert all(f"- {name}: " in text for name in CLAIMS)


def test_text_in_a_table_cell_means_itself():
    assert pages._text("a|b *c* <i> $x$") == "a\\|b \\*c\\* \\<i\\> \\$x\\$"
