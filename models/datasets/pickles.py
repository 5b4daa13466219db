"""Read a pickle that holds nothing but numbers, text, lists, dictionaries and NumPy arrays.

A pickle is a program: loading one from an unknown hand runs whatever it says. Here it may only build plain data;
anything else that it asks for is refused before it is looked up. NumPy's own classes are not handed out either: their
state comes from the file, and they trust it.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray


def loads(content: bytes) -> dict[str, Any]:
    """The dictionary in a pickle, its arrays as NumPy arrays, text of Python 2 read as latin-1.

    Raises `ValueError` for a pickle that is damaged, cut short, no dictionary, or asks for anything but plain data.
    """
    try:
        found = _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise ValueError(str(error)) from None
    except Exception as error:
        raise ValueError(f"it is no whole pickle: {type(error).__name__}") from None
    if not isinstance(found, dict):
        raise ValueError("it holds no dictionary")
    return {str(key): value.array() if isinstance(value, _Array) else value for key, value in found.items()}


class _Class:
    """Stands for the class `numpy.ndarray`, which pickles name but need not call."""


class _Dtype:
    """A type of numbers of fixed size: all of a `numpy.dtype` that plain data need."""

    def __init__(self, code: str, align: object = False, copy: object = True) -> None:
        if not isinstance(code, str) or code[:1] not in tuple("biuf") or not code[1:].isdigit():
            raise pickle.UnpicklingError(f"it holds an array of {code!r}, not of numbers")
        self.code = code
        self.byte_order = "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("it holds an array of an unknown byte order")
        self.byte_order = state[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.byte_order + self.code)


class _Array:
    """What a pickle says of an array; `array` builds it."""

    def __init__(self, kind: object = _Class, shape: object = (), code: object = "") -> None:
        self.state: tuple[tuple[int, ...], _Dtype, bool, bytes] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        self.state = shape, dtype, fortran, content.encode("latin1") if isinstance(content, str) else content

    @classmethod
    def of_buffer(cls, buffer: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
        """The same from the newest protocol."""
        found = cls()
        found.state = shape, dtype, order == "F", buffer
        return found

    def array(self) -> NDArray[Any]:
        if self.state is None:
            raise ValueError("it holds an array without content")
        shape, dtype, fortran, content = self.state
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes | bytearray):
            raise ValueError("it holds an array of something else than numbers")
        if math.prod(shape) * dtype.dtype.itemsize != len(content):
            raise ValueError("it holds an array of another size than it says")
        return np.frombuffer(content, dtype.dtype).reshape(shape, order="F" if fortran else "C")


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How Python 3 writes bytes into the older protocols."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes text as {encoding}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Class,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _Array
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _Array.of_buffer


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which plain data do not need") from None

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside itself")
