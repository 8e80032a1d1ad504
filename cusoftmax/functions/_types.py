"""The types of arrays, for type checkers: results are of the type of the first array."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar


class SharesByDLPack(Protocol):
    """An array that shares its memory by DLPack, such as those of CuPy, PyTorch and JAX."""

    def __dlpack__(self, *, stream: Any = ...) -> Any: ...

    def __dlpack_device__(self) -> Any: ...


class SharesByInterface(Protocol):
    """An array that shares its memory by ``__cuda_array_interface__``, such as Numba's."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...


AnyArray = SharesByDLPack | SharesByInterface
ArrayT = TypeVar("ArrayT", bound=AnyArray)
