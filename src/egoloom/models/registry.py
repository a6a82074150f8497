"""The registry: names of architectures, and `create_model` that builds one."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from pydantic import ValidationError

from egoloom.errors import UserError
from egoloom.models.base import Recogniser


@dataclass(frozen=True)
class Architecture:
    """One name of the registry: a class and the configuration values that make it this size."""

    model: type[Recogniser]
    defaults: Mapping[str, Any]
    summary: str


_ARCHITECTURES: dict[str, Architecture] = {}


def register(name: str, model: type[Recogniser], summary: str, **defaults: Any) -> None:
    """Adds an architecture.

    Raises:
        ValueError: If the name is taken.
    """
    if name in _ARCHITECTURES:
        raise ValueError(f"The architecture {name!r} is registered already")
    _ARCHITECTURES[name] = Architecture(model, defaults, summary)


def list_models(pattern: str = "*") -> list[str]:
    """Returns the sorted names of all architectures that match a shell pattern such as ``"edge_*"``."""
    return sorted(name for name in _ARCHITECTURES if fnmatch(name, pattern))


def describe_models() -> dict[str, str]:
    """Returns name to one-line summary of all architectures."""
    return {name: _ARCHITECTURES[name].summary for name in list_models()}


def create_model(name: str, *, num_classes: Mapping[str, int], **overrides: Any) -> Recogniser:
    """Builds a recogniser with fresh weights.

    Args:
        name: One of `list_models`.
        num_classes: Head name (``"verb"``, ``"noun"``, ``"action"``, ...) to number of classes.
        **overrides: Values of the architecture's configuration that differ from the named size.

    Raises:
        UserError: If the name is unknown, or a value is unknown or out of range.

    Example:
        >>> model = create_model("edge_tiny", num_classes={"verb": 5, "noun": 7})
        >>> model.heads
        {'verb': 5, 'noun': 7}
    """
    if name not in _ARCHITECTURES:
        raise UserError(f"Unknown model {name!r}", allowed=", ".join(list_models()))
    architecture = _ARCHITECTURES[name]
    values = {**architecture.defaults, **overrides, "num_classes": dict(num_classes)}
    try:
        config = architecture.model.Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise UserError(
            f"Model {name!r}: {field} = {first.get('input')!r}: {first['msg']}",
            allowed=f"fields {', '.join(architecture.model.Config.model_fields)}",
        ) from error
    model = architecture.model(config)  # type: ignore[call-arg]  # subclasses set their modalities themselves
    model.architecture = name
    return model
