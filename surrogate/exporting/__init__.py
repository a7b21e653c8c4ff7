"""Bundles: a Surrogate exported for callers without Python, and for Python callers without its framework.

``open_bundle`` needs JAX and NumPy alone; ``export_bundle`` needs the framework that trained the Surrogate.
Both are imported on first use, so that a caller of one never loads the other.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surrogate.exporting.caller import Bundle, open_bundle
    from surrogate.exporting.write import export_bundle

_WHERE = {
    "open_bundle": "surrogate.exporting.caller",
    "Bundle": "surrogate.exporting.caller",
    "export_bundle": "surrogate.exporting.write",
}
__all__ = ["Bundle", "export_bundle", "open_bundle"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'surrogate.exporting' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
