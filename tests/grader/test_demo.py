import shutil
from pathlib import Path

import pytest

from grader import course, demo
from grader.exercise import Outcome


@pytest.mark.slow
@pytest.mark.xdist_group("class")
def test_the_demonstration_class_ends_as_planted(tmp_path, capsys):
    from tools.build import save, source
    from tools.chapter import Course

    shutil.copytree(Path(__file__).parent / "small_course", tmp_path / "course")
    here = Course(tmp_path)
    save(source(here, "01_sums", ["mean_square", "root_mean_square"]), here.source("01_sums"))
    said = []
    faults = demo.run(tmp_path / "course", tmp_path / "demo", 2, said.append)
    assert faults == []
    table = capsys.readouterr().out
    for student in ("ada", "bao", "chidi", "dana", "emil", "fay", "lena"):
        assert student in table
    assert (tmp_path / "demo/feedback/fay/01_sums/01_sums.html").is_file()


def test_a_score_that_is_not_as_planted_is_reported(small):
    plant = demo.Plant("fay", "wrong", {}, loses="mean_square", named=("sum for mean",))
    entries = [
        {"exercise": "mean_square", "outcome": Outcome.FAILED, "diagnosis": "something else"},
        {"exercise": "root_mean_square", "outcome": Outcome.FAILED, "diagnosis": ""},
    ]
    faults = demo.judge_plant(small, plant, {"exercises": entries})
    assert len(faults) == 2
    assert "feedback names 'something else'" in faults[0]
    assert "root_mean_square: want passed" in faults[1]


def test_the_class_has_twelve_and_each_planted_mistake_has_one_exercise():
    for slug in course.slugs():
        plants = demo.plants(course.load(slug))
        assert len(plants) == 12
        assert len({p.student for p in plants}) == 12
