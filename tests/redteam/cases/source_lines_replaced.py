# what: replaces the lines that a traceback would show
# expect: error
# ruff: noqa
import linecache


class Lines(list):
    def __getitem__(self, n):
        return "<script>alert(1)</script>\x1b[2J" * 10_000


for name in list(linecache.cache):
    linecache.cache[name] = (1, None, Lines(["x"] * 100), name)


def softmax(x, dim=-1):
    raise ValueError("look at my lines")
