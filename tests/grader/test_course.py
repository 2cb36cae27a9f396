import pytest

from grader import course


def test_a_chapter_is_read_from_its_text(small):
    assert small.title == "01 Sums: a chapter for tests"
    assert small.points == {"mean_square": 4.0, "root_mean_square": 2.0}
    assert small.manual == {"why_squares": 3.0}
    assert "SOLUTION" not in small.solutions["mean_square"]
    assert small.namespace(small.exercises["root_mean_square"])["root_mean_square"].__name__ == "root_mean_square"


def test_an_unknown_chapter_names_the_nearest(small):
    with pytest.raises(ValueError, match="did you mean 01_sums"):
        course.load("01_sum", small.folder.parent.parent)


def test_an_exercise_is_found_by_its_function(small):
    chapter, exercise = course.find("root_mean_square")
    assert (chapter.slug, exercise.name) == ("01_sums", "root_mean_square")


def test_a_folder_that_is_no_course_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv(course.ROOT_VARIABLE, str(tmp_path))
    with pytest.raises(FileNotFoundError, match="holds no folder chapters"):
        course.find_root()


def test_a_replacement_that_does_not_stand_once_is_refused(small):
    from grader.exercise import Misconception

    with pytest.raises(ValueError, match="must stand once"):
        small.source_of(small.exercises["mean_square"], Misconception(name="m", says="", replace=("x", "y")))


@pytest.mark.parametrize("slug", course.slugs())
def test_every_exercise_of_the_course_has_a_solution_points_and_checks(slug):
    chapter = course.load(slug)
    assert set(chapter.exercises) == set(chapter.solutions) == set(chapter.points)
    for exercise in chapter.exercises.values():
        assert set(exercise.uses) <= set(chapter.exercises)
        for item in (*exercise.misconceptions, *exercise.variants):
            chapter.namespace(exercise, chapter.source_of(exercise, item))
