"""GLINT: gated language-image alignment for radiology.

`from glint import Glint; model = Glint.from_pretrained("results/ct/09_train/glint")`
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glint.model.glint import Glint as Glint

__all__ = ["Glint"]


def __getattr__(name: str) -> Any:
    """`Glint`, imported when it is asked for: torch costs more than a second, and most commands need none."""
    if name != "Glint":
        raise AttributeError(f"module 'glint' has no attribute {name!r}")
    from importlib import import_module

    return import_module("glint.model.glint").Glint
