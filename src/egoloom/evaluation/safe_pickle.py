"""Reads foreign pickles of plain data without running any code that they contain.

A pickle is a program; opening one from a stranger hands him the machine. This reader knows lists, dictionaries,
strings, numbers and NumPy arrays and refuses everything else by name.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from egoloom.errors import UserError

MAX_BYTES = 4 * 1024**3

# NumPy's own names moved from numpy.core to numpy._core; a file may carry either.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): dict,
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _ALLOWED[_module, "_reconstruct"] = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    _ALLOWED[_module, "scalar"] = np._core.multiarray.scalar  # type: ignore[attr-defined]
for _module in ("numpy.core.numeric", "numpy._core.numeric"):
    _ALLOWED[_module, "_frombuffer"] = np._core.numeric._frombuffer  # type: ignore[attr-defined]


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """Stands in for ``_codecs.encode``, with which protocol 2 writes bytes; other encodings are refused."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return text.encode("latin1")


_ALLOWED["_codecs", "encode"] = _encode_latin1


class PlainDataUnpickler(pickle.Unpickler):
    """An unpickler whose only importable names are those of plain NumPy data."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Returns an allowed name.

        Raises:
            pickle.UnpicklingError: For every other one.
        """
        try:
            return _ALLOWED[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}") from None

    def persistent_load(self, pid: Any) -> Any:
        """Refuses references to anything outside the file."""
        raise pickle.UnpicklingError("it refers to data outside the file")


def read_plain_pickle(path: str | Path) -> Any:
    """Returns the lists, dictionaries, strings, numbers and arrays of a pickle.

    Raises:
        UserError: If the file is missing, damaged, larger than 4 GB or holds anything else.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} is larger than 4 GB", fix="save the scores as .npz")
        return PlainDataUnpickler(io.BytesIO(path.read_bytes())).load()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error
    except UserError:
        raise
    except Exception as error:
        # A hostile or damaged pickle fails in any way it likes; none of them may pass as data.
        raise UserError(
            f"{path} is not a pickle of plain data: {error}",
            allowed="lists, dictionaries, strings, numbers and NumPy arrays",
            fix="save the scores as .npz with narration_id, verb_output and noun_output",
        ) from error


def read_plain_torch(path: str | Path) -> Any:
    """Returns the content of a ``.pt`` file of tensors and plain data, tensors as NumPy arrays.

    Raises:
        UserError: If the file is missing, damaged or would need code to be run.
    """
    import torch

    allowed = [value for value in _ALLOWED.values() if value not in (dict, _encode_latin1)]
    numpy_types = [type(np.dtype(name)) for name in ("f2", "f4", "f8", "i1", "i4", "i8", "u1", "U1", "O")]
    aliases = [(value, f"{module}.{name}") for (module, name), value in _ALLOWED.items() if value is not dict]
    try:
        with torch.serialization.safe_globals([*allowed, *numpy_types, *aliases]):
            return _as_arrays(torch.load(path, map_location="cpu", weights_only=True))
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error
    except Exception as error:
        raise UserError(
            f"{path} is not a file of tensors and plain data: {str(error).splitlines()[0]}",
            fix="save the scores as .npz with narration_id, verb_output and noun_output",
        ) from error


def _as_arrays(value: Any) -> Any:
    if hasattr(value, "detach"):
        return value.detach().numpy()
    if isinstance(value, dict):
        return {key: _as_arrays(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_arrays(item) for item in value]
    return value
