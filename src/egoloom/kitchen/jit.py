"""One decorator for compiled kernels: cached on disk where a folder can be written, compiled anew where none can."""

from collections.abc import Callable
from typing import Any

import numba


def inline_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns ``function`` as a helper that is copied into the kernels that call it (their arguments are costly)."""
    return numba.njit(inline="always", fastmath=False, nogil=True, error_model="numpy")(function)


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns ``function`` compiled without fast-math, so that results are the same on every processor.

    Numba looks for a writable cache beside the source, then in the user's cache folder; if neither exists (a
    read-only installation without a home) it refuses to cache, and the kernel is compiled once per process.
    """
    try:
        return numba.njit(cache=True, fastmath=False, nogil=True, error_model="numpy")(function)
    except RuntimeError:
        return numba.njit(fastmath=False, nogil=True, error_model="numpy")(function)
