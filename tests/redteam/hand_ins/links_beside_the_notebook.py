# what: puts links and odd names beside a right notebook
# expect: passed
# ruff: noqa
# says: is ignored
def hand_in(target, right, wrong, secret):
    (target.parent / "gradebook.db").symlink_to(secret)
    (target.parent / "<img onerror=x>\x1b[31m\n").write_text("x")
    (target.parent / "torch.py").write_text("raise SystemExit")
    (target.parent / "nbgrader_config.py").write_text("raise SystemExit")
    return right
