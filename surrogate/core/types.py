"""Types shared by every layer, and the one exception that people are meant to read."""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import numpy as np

Array: TypeAlias = jax.Array | np.ndarray
PyTree: TypeAlias = Any


class UserError(Exception):
    """A mistake in a file, a setting or a command: one clear sentence with the names in it.

    The command line prints its text without a traceback and exits with code 2.
    """
