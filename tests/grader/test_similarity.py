"""What counts as alike and what does not. The list is for a person; these tests hold its two promises: renaming does not hide, and
what the task itself explains is not held against anyone."""

import pytest

from grader import course
from grader.similarity import compare, fragments, normalised, similar

SOLUTION = """
def moving(x, width):
    total, out = 0.0, []
    for n, value in enumerate(x):
        total += value
        if n >= width:
            total -= x[n - width]
        out.append(total / min(n + 1, width))
    return out
"""
ODD = """
def moving(x, width):
    # keep the last few in a ring, as my aunt showed me
    ring = [0.0] * width
    answers = []
    filled = 0
    for position, value in enumerate(x):
        ring[position % width] = float(value)
        filled = max(filled, min(position + 1, width))
        answers.append(sum(ring[:filled]) / filled if filled < width else sum(ring) / width)
    return answers
"""
RENAMED = '''
def moving(data, w):
    """My own work."""
    buffer: list = [0.0] * w
    res = []

    k = 0
    for i, item in enumerate(data):
        buffer[i % w] = float(item)   # put it in
        k = max(k, min(i + 1, w))
        res.append(sum(buffer[:k]) / k if k < w else sum(buffer) / w)
    return res
'''
OTHER = """
def moving(x, width):
    sums = [0.0]
    for value in x:
        sums.append(sums[-1] + value)
    first = [max(0, n + 1 - width) for n in range(len(x))]
    return [(sums[n + 1] - sums[a]) / (n + 1 - a) for n, a in enumerate(first)]
"""


def test_renaming_comments_layout_and_annotations_do_not_hide():
    assert fragments(ODD) == fragments(RENAMED)
    (pair,) = compare("moving", {"ada": ODD, "bao": RENAMED, "chi": OTHER}, [SOLUTION])
    assert (pair.one, pair.other, pair.share) == ("ada", "bao", 1.0)


def test_a_copy_with_statements_added_and_moved_is_still_found():
    padded = RENAMED.replace(
        "    res = []\n\n    k = 0\n", "    k = 0\n    print(len(data))\n    res = []\n    unused = w * 2 + 7\n"
    )
    (pair,) = compare("moving", {"ada": ODD, "bao": padded}, [SOLUTION])
    assert pair.share > 0.7


def test_different_ways_to_the_same_answer_are_not_alike():
    assert compare("moving", {"ada": ODD, "bao": OTHER}, [SOLUTION], threshold=0.3) == []


def test_what_the_solution_or_the_stub_explains_is_nobodys_own():
    same = SOLUTION.replace("total", "acc")
    assert compare("moving", {"ada": same, "bao": same}, [SOLUTION]) == []
    assert len(compare("moving", {"ada": same, "bao": same}, [])) == 1


def test_what_many_write_is_the_tasks_own():
    many = {f"s{n}": OTHER for n in range(5)}
    assert compare("moving", many, [SOLUTION]) == []
    assert len(compare("moving", {"s0": OTHER, "s1": OTHER}, [SOLUTION])) == 1


def test_answers_too_short_to_tell_are_left_out():
    short = "def f(x):\n    return x.exp() / x.exp().sum()\n"
    assert compare("f", {"ada": short, "bao": short}, []) == []


def test_comments_that_both_hold_are_shown_and_those_of_the_stub_are_not():
    stub = "def moving(x, width):\n    # write your answer below this line\n    raise NotImplementedError\n"
    one = ODD + "\n# write your answer below this line\n"
    (pair,) = compare("moving", {"ada": one, "bao": one}, [SOLUTION, stub])
    assert pair.same_comments == ("keep the last few in a ring, as my aunt showed me",)


@pytest.mark.parametrize("source", ["", "def f(:", "\0", "x = " + "(" * 5000, "x" * 100_000, "-" * 50_000 + "1"])
def test_what_is_no_python_or_too_large_has_no_fragments(source):
    assert fragments(source) == set()
    assert compare("f", {"ada": source, "bao": source}, []) == []


def test_imports_under_other_names_do_not_hide():
    plain = "import torch\ndef f(x):\n    return torch.exp(x)\n"
    assert list(normalised(plain)) == list(normalised("import torch as t\ndef f(y):\n    return t.exp(y)\n"))


def test_a_class_is_compared_exercise_by_exercise(released_course, tmp_path, hand_in):
    import shutil

    root = tmp_path / "course"
    shutil.copytree(released_course, root)
    long = (
        "def mean_square(x):\n    if x.shape[-1] == 0:\n        raise ValueError('no')\n    total = x[..., 0] * 0\n"
        + (
            "    count = 0\n    for k in range(x.shape[-1]):\n        column = x.select(-1, k)\n"
            "        total = total + column * column\n        count = count + 1\n    return total / float(count)\n"
        )
    )
    right = course.load("01_sums", root).solutions
    hand_in(root, "ada", {**right, "mean_square": long})
    hand_in(root, "bao", {**right, "mean_square": long.replace("total", "s").replace("column", "c")})
    hand_in(root, "chi", right)
    assert [(p.exercise, p.one, p.other) for p in similar(root, "01_sums")] == [("mean_square", "ada", "bao")]
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        similar(root, "01_sums", 0)
