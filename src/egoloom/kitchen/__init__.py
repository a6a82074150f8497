"""The built-in data: a seeded kitchen seen by ego and exo cameras, with every modality and its ground truth.

``render_clip(settings, index)`` makes one take in memory, ``make_store(path, num_clips=..., seed=...)`` a whole
clip store. Both load on first use, so that importing the package stays light.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from egoloom.kitchen.clip import KitchenClip, render_clip
    from egoloom.kitchen.settings import KitchenSettings
    from egoloom.kitchen.store import make_store

__all__ = ["KitchenClip", "KitchenSettings", "make_store", "render_clip"]

_HOMES = {
    "KitchenClip": "egoloom.kitchen.clip",
    "KitchenSettings": "egoloom.kitchen.settings",
    "make_store": "egoloom.kitchen.store",
    "render_clip": "egoloom.kitchen.clip",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
