"""The one place where optional libraries are imported."""

import importlib
from types import ModuleType

from egoloom.errors import UserError


def require_package(module: str, *, extra: str, package: str | None = None) -> ModuleType:
    """Imports an optional library or says which extra brings it.

    Args:
        module: The module to import, for instance ``"onnxruntime"``.
        extra: The extra of ``egoloom`` that installs it, for instance ``"export"``.
        package: The distribution's name where it differs from the module's.

    Raises:
        UserError: If the library is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"This needs {package or module}, which cannot be imported: {error}",
            fix=f'pip install "egoloom[{extra}]"',
        ) from error
