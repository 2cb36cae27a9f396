"""How the compiled modules compile: with explicit signatures, cached on disk, without the GIL.

Importing this module imports numba (about half a second); the first compilation on a machine takes some seconds more.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numba
from numba import types
from numba.core.typing import Signature

BYTES = types.Array(types.uint8, 1, "C", readonly=True)
"""Read-only bytes, which every uint8 array converts to."""


def kernel(signature: Signature) -> Callable:
    """A decorator that compiles a function for one signature when its module is imported, or loads it from the disk cache."""

    def compile_now(function: Callable) -> Callable:
        plain = inspect.unwrap(function)  # type checkers may have wrapped it
        try:
            return numba.njit(signature, cache=True, nogil=True)(plain)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            return numba.njit(signature, nogil=True)(plain)  # no folder to write the cache in

    return compile_now


def inlined(function: Callable) -> Callable:
    """A small function that kernels call; it is compiled as a part of them.

    It must stand in the file of its kernels: the disk cache notices a change in that file only.
    """
    return numba.njit(nogil=True, forceinline=True)(inspect.unwrap(function))
