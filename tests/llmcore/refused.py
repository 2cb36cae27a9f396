"""`refused`: what a person's mistake should raise, seen as a person sees it, without the shape checks that tests may switch on."""

from collections.abc import Iterator
from contextlib import contextmanager

import jaxtyping
import pytest


@contextmanager
def refused(match: str, error: type[Exception] = ValueError) -> Iterator[None]:
    """`pytest.raises`, with jaxtyping's run-time checks off inside."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(error, match=match):
            yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
