"""Synthetic worlds: the answers are right, the checkers exact, the same seed the same text."""

import itertools
import re

import pytest

from llmcore.data.synthetic import (
    BACK,
    Grammar,
    Problem,
    arithmetic,
    biographies,
    is_solved,
    retry_problems,
    stories,
    wrong_equations,
)


@pytest.mark.parametrize("make", [arithmetic, biographies, stories, retry_problems])
def test_a_seed_fixes_the_texts_and_a_longer_list_begins_with_the_shorter(make):
    assert make(5, 3) == make(9, 3)[:5]
    assert make(5, 3) != make(5, 4)
    assert make(0, 3) == []
    with pytest.raises(ValueError, match="count must be at least 0, got -1"):
        make(-1, 3)


def test_every_line_of_worked_arithmetic_is_right():
    for problem in arithmetic(400, 0, max_digits=4):
        first, operation, second = re.fullmatch(r"(\d+)([+*-])(\d+)", problem.question).groups()
        expected = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[operation](int(first), int(second))
        assert problem.answer == str(expected)
        assert expected >= 0
        assert wrong_equations(problem.text) == []
        assert is_solved(problem, problem.text)
        if operation != "*":
            digits = "".join(re.findall(r"write (\d)", problem.text))[::-1]
            assert int(digits) == expected


def test_wrong_lines_and_answers_are_found():
    problem = Problem("12+9", ("2+9=11 write 1 carry 1", "1+0+1=2 write 2"), "21")
    assert is_solved(problem, problem.text)
    assert not is_solved(problem, problem.text.replace("=21", "=22"))
    assert not is_solved(problem, "12+9\n")
    assert wrong_equations(problem.text.replace("=11", "=12")) == ["2+9=12"]
    assert wrong_equations("2*3+4=10, 2+3*4=20, 9-2-3=4, 14-8=7") == ["2+3*4=20", "14-8=7"]
    with pytest.raises(ValueError, match="operations"):
        arithmetic(1, 0, operations="/")


def words_of(grammar: Grammar, symbol: str) -> set[str]:
    """Every word that a layered grammar's symbol derives."""
    if symbol not in grammar.rules:
        return {symbol}
    return {
        "".join(parts)
        for rule in grammar.rules[symbol]
        for parts in itertools.product(*(words_of(grammar, part) for part in rule))
    }


@pytest.mark.parametrize("seed", range(4))
def test_the_checker_accepts_exactly_the_language(seed):
    grammar = Grammar.layered(seed, levels=2, symbols=2)
    language = words_of(grammar, grammar.start)
    longest = max(map(len, language))
    for length in range(longest + 2):
        for letters in itertools.product("ab", repeat=length):
            word = "".join(letters)
            assert grammar.accepts(word) == (word in language)


def test_samples_belong_to_the_language_and_one_changed_letter_mostly_does_not():
    grammar = Grammar.layered(5, levels=5, symbols=3)
    rejected = 0
    for index in range(40):
        word = grammar.sample(1, index)
        assert grammar.accepts(word)
        middle = len(word) // 2
        changed = word[:middle] + ("a" if word[middle] != "a" else "b") + word[middle + 1 :]
        rejected += not grammar.accepts(changed)
    assert rejected >= 20


def balanced(text: str) -> bool:
    open_ones = []
    for letter in text:
        if letter in "([":
            open_ones.append(letter)
        elif not open_ones or open_ones.pop() + letter not in ("()", "[]"):
            return False
    return not open_ones


def test_brackets_are_the_balanced_strings():
    grammar = Grammar.brackets()
    for length in range(7):
        for letters in itertools.product("()[]", repeat=length):
            assert grammar.accepts("".join(letters)) == balanced(letters)
    assert all(balanced(grammar.sample(seed, max_depth=5)) for seed in range(30))


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ({"T": (("a",),)}, "start symbol 'S'"),
        ({"S": (("a", "S"),)}, "never ends"),
        ({"S": (("S", "a"), ("a",))}, "begin with itself"),
        ({"S": (("N", "S", "a"), ("a",)), "N": ((),)}, "begin with itself"),
    ],
)
def test_grammars_that_cannot_work_are_refused(rules, text):
    with pytest.raises(ValueError, match=text):
        Grammar(rules, "S")


def test_people_have_different_names_and_their_facts_stand_in_their_biographies():
    people = biographies(300, 1)
    assert len({person.name for person in people}) == 300
    for person in people[:20]:
        for shuffled in (False, True):
            told = person.biography(2, shuffle=shuffled)
            assert all(answer in told for _, answer in person.questions())
    assert len({people[0].biography(seed) for seed in range(20)}) > 5
    with pytest.raises(ValueError, match="8000 different names"):
        biographies(8001, 0)


def test_stories_answer_their_question():
    tales = stories(100, 0)
    assert len({tale.text for tale in tales}) == 100
    for tale in tales:
        assert f"Then they looked {tale.answer}" in tale.text


def check_chain(text: str, answer: str) -> None:
    """Work the question out independently."""
    values: dict[str, int] = {}
    *definitions, asked = text.split("\n")[0].split("; ")
    for definition in definitions:
        name, right = definition.split(" = ")
        for known, value in values.items():
            right = re.sub(rf"\b{known}\b", str(value), right)
        values[name] = eval(right) % 23
    assert answer == str(values[asked.rstrip("?")])


def test_retry_chains_are_right_and_errors_are_taken_back():
    problems = retry_problems(60, 0, n_steps=6, error_rate=0.4)
    assert 100 < sum(problem.n_errors for problem in problems) < 380  # 60 * 6 * 0.4 / 0.6 = 240 in the mean
    for problem in problems:
        check_chain(problem.text, problem.answer)
        assert BACK not in problem.clean_text
        steps = problem.clean_text.split("\n")[1].split("; ")
        assert len(steps) == 6
        assert problem.clean_text.split("\n")[1].rstrip(";").endswith(f"= {problem.answer}")
        spans = problem.wrong_spans()
        assert len(spans) == problem.n_errors
        assert all(problem.text[end : end + 1 + len(BACK)] == f" {BACK}" for _, end in spans)


def test_without_errors_retry_text_is_clean_text():
    problem = retry_problems(1, 0, error_rate=0.0)[0]
    assert problem.text == problem.clean_text
    with pytest.raises(ValueError, match="error_rate"):
        retry_problems(1, 0, error_rate=1.0)
