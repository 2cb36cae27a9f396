"""What is committed is what the texts say: rebuilt without executing, and held against the linter's rules."""

from tools import lint, notebooks


def test_a_rebuild_without_executing_equals_what_is_committed(capsys):
    status = notebooks.main(["--check"])
    assert status == 0, capsys.readouterr().out


def test_the_linter_has_no_findings(capsys):
    status = lint.main([])
    assert status == 0, capsys.readouterr().out
