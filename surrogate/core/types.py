"""Types shared by every layer, and the one exception that people are meant to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import jax
    import numpy as np

# Text, so that naming a type does not import JAX: the reader and the plots do without it.
Array: TypeAlias = "jax.Array | np.ndarray"
PyTree: TypeAlias = Any


class UserError(Exception):
    """A mistake in a file, a setting or a command: one clear sentence with the names in it.

    The command line prints its text without a traceback and exits with code 2.
    """
