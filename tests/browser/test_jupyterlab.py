"""What a learner does in the browser: open a lesson, run it, move a slider, answer an exercise, read the card."""

import time

import pytest

from tools import build
from tools.chapter import CODE_ROOT, Course

pytestmark = pytest.mark.browser
COURSE = Course(CODE_ROOT)
SLUGS = COURSE.slugs()
RUN_TIMEOUT_MS = 240_000
LESSONS = [pytest.param(slug, marks=[] if slug == SLUGS[0] else pytest.mark.slow) for slug in SLUGS]


def open_notebook(page, lab, path: str) -> None:
    page.goto(lab.page(path))
    page.wait_for_selector(".jp-NotebookPanel .jp-Notebook .jp-Cell", timeout=60_000)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=90_000)


def menu(page, name: str, entry: str) -> None:
    page.get_by_role("menuitem", name=name, exact=True).click()
    page.locator(".lm-Menu-itemLabel").get_by_text(entry, exact=True).click()


def run_all(page) -> None:
    """Clear what is stored, run all cells, and wait until one has run, none waits and the kernel is idle."""
    menu(page, "Edit", "Clear Outputs of All Cells")
    menu(page, "Run", "Run All Cells")
    ended = """() => {
        const prompts = [...document.querySelectorAll('.jp-InputPrompt')].map(p => p.textContent);
        return prompts.some(t => /\\d/.test(t)) && !prompts.some(t => t.includes('*'));
    }"""
    page.wait_for_function(ended, timeout=RUN_TIMEOUT_MS, polling=250)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()


def errors(page) -> list[str]:
    return page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]').all_inner_texts()


def content(panel) -> str:
    """What a figure panel shows: the address of its picture, which changes with its bytes, or its markup."""
    picture = panel.locator("img.widget-image, img.jupyter-widgets")
    if picture.count():
        return picture.first.get_attribute("src")
    return panel.locator(".widget-html-content").last.inner_html()


def move(panel) -> bool:
    """Move the panel's first slider with the keyboard; whether its figure changed."""
    handle = panel.locator('[role="slider"]').first
    before = content(panel)
    for key in ("ArrowRight", "ArrowLeft", "ArrowLeft"):
        handle.focus()
        handle.press(key)
        end = time.monotonic() + 8
        while time.monotonic() < end:
            if content(panel) != before:
                return True
            panel.page.wait_for_timeout(100)
    return False


def test_the_start_page_shows_the_map_and_counts_progress(page, lab, screenshots):
    open_notebook(page, lab, "lessons/00_start_here.ipynb")
    run_all(page)
    page.wait_for_selector("meter")
    assert page.locator("meter").count() == len(SLUGS)
    assert errors(page) == []
    links = page.locator(".jp-RenderedMarkdown a").evaluate_all("found => found.map(a => a.textContent)")
    assert any("exercises" in text for text in links)
    page.screenshot(path=screenshots / "start_page.png")


@pytest.mark.parametrize("slug", LESSONS)
def test_a_lesson_runs_and_its_figures_follow_their_sliders(slug, page, lab, screenshots):
    open_notebook(page, lab, f"lessons/{slug}.ipynb")
    page.screenshot(path=screenshots / f"{slug}_opened.png")
    run_all(page)
    assert errors(page) == []
    broken = page.locator(".jupyter-widgets-error-widget").count()
    assert broken == 0, f"{broken} widgets could not be shown by the browser"
    panels = page.locator(".jp-OutputArea-output > .widget-vbox, .jp-OutputArea-output .jupyter-widgets.widget-vbox")
    with_slider = [panel for panel in panels.all() if panel.locator('[role="slider"]').count()]
    assert with_slider, "the lesson has no figure with a slider"
    still = []
    for number, panel in enumerate(panels.all(), 1):
        panel.scroll_into_view_if_needed()
        panel.screenshot(path=screenshots / f"{slug}_figure_{number}.png")
        if panel.locator('[role="slider"]').count() and not move(panel):
            still.append(number)
        panel.screenshot(path=screenshots / f"{slug}_figure_{number}_moved.png")
    assert still == [], f"figures that did not follow their slider: {still}"


def test_an_answer_gets_its_card(page, lab, screenshots):
    slug = SLUGS[0]
    cells = build.load(COURSE.source(slug))["cells"]
    answer = next(c for c in cells if c["metadata"].get("nbgrader", {}).get("solution"))
    name = answer["id"]
    open_notebook(page, lab, f"assignments/{slug}/{slug}.ipynb")
    run_all(page)
    card = page.locator('.jp-OutputArea-output div[role="status"]').first
    assert "not attempted yet" in card.inner_text()
    card.screenshot(path=screenshots / "card_not_attempted.png")

    def fill(source: str) -> str:
        editor = page.locator(".jp-CodeCell").filter(has_text=f"def {name}(").first.locator(".cm-content")
        editor.click()
        page.keyboard.press("Control+a")
        page.keyboard.insert_text(source)
        run_all(page)
        card.scroll_into_view_if_needed()
        return card.inner_text()

    text = fill(f"def {name}(*arguments):\n    return None\n")
    assert f"{name}: not yet" in text
    assert "Hint 1 of 3" in text
    card.locator("summary").first.click()
    card.screenshot(path=screenshots / "card_not_yet.png")
    text = fill(answer["source"].replace("### BEGIN SOLUTION", "").replace("### END SOLUTION", ""))
    assert f"{name}: passed" in text
    page.screenshot(path=screenshots / "card_passed.png")
    assert f'"{name}"' in (lab.workspace / ".progress.json").read_text(encoding="utf-8")
