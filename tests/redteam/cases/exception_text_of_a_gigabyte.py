# what: raises an exception with a very long text full of markup
# expect: error
# ruff: noqa
def softmax(x, dim=-1):
    raise ValueError("<script>alert(1)</script>\x1b]0;owned\x07" * 1_000_000)
