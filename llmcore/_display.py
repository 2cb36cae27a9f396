"""Show a MIME bundle where there is a notebook, print its text where there is none. IPython is never imported for it."""

import sys
from typing import Any


def shell() -> Any | None:
    """The running IPython shell, or None in an ordinary interpreter."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def show_bundle(data: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
    """Publish one output with all the forms in `data` (MIME type to content); in a terminal print `text/plain`."""
    if shell() is None:
        print(data["text/plain"])
        return
    from IPython.display import display

    display(data, raw=True, metadata=metadata or {})


class ShownOnce:
    """An object that is displayed when it is made, and not again as the value of the same cell."""

    _shown_in: int | None = None

    def _bundle(self) -> tuple[dict[str, Any], dict[str, Any]]:
        raise NotImplementedError

    def show(self) -> None:
        """Display it, here and again."""
        running = shell()
        object.__setattr__(self, "_shown_in", getattr(running, "execution_count", None))
        show_bundle(*self._bundle())

    def _ipython_display_(self) -> None:
        if self._shown_in is None or self._shown_in != getattr(shell(), "execution_count", None):
            self.show()
