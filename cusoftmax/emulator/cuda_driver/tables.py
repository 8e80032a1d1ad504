"""The tables of C functions through which CuPy's modules call one another.

A compiled module of CuPy has a table, ``__pyx_capi__``, of the functions that others may call: a
capsule for each, whose name is the function's type in C. A module that is imported later takes the
pointers from there.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
import pathlib
import threading
import typing
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Annotated, Any

from .._build import build

_SOURCE = pathlib.Path(__file__).with_name("tables.cpp")

# How the parameters of an entry are annotated: int is C's int, any other type a PyObject *.
Handle = Annotated[int, "intptr_t"]  # pointers too
Size = Annotated[int, "size_t"]
Unsigned = Annotated[int, "unsigned int"]

_SKIP = "int __pyx_skip_dispatch"
# Return types by value. Such functions call no driver, or take a handle that only a refused entry
# could make.
_BY_VALUE = ("cuda",)
# What entries return when they raise, where it is not -1 for an int and 0 for others: -1 is a valid
# result of funcGetAttribute.
_FAILED = {"funcGetAttribute": -2, "streamGetPriority": 0, "deviceGetLimit": -1}


class UnknownSignature(RuntimeError):
    """An entry of this CuPy has another type than the function that is to replace it."""

    def __init__(self, module: ModuleType, name: str, found: str, expected: str) -> None:
        super().__init__(
            f"{module.__name__}.{name} of this CuPy is {found!r}, not {expected!r}: "
            "what replaces it has to follow"
        )


def signature(module: ModuleType, name: str) -> str:
    """Return the type of an entry as its capsule names it."""
    get_name = ctypes.pythonapi.PyCapsule_GetName
    get_name.restype = ctypes.c_char_p
    get_name.argtypes = (ctypes.py_object,)
    return (get_name(module.__pyx_capi__[name]) or b"").decode()


def _point(module: ModuleType, name: str, address: int | None) -> None:
    """Make an entry point elsewhere, for modules that are imported from now on."""
    set_pointer = ctypes.pythonapi.PyCapsule_SetPointer
    set_pointer.argtypes = (ctypes.py_object, ctypes.c_void_p)
    set_pointer(module.__pyx_capi__[name], address)


def replace_by(module: ModuleType, name: str, expected: str, address: int | None) -> None:
    """Make an entry point to a C function of the type `expected`, if that is the entry's."""
    found = signature(module, name)
    if found != expected:
        raise UnknownSignature(module, name, found, expected)
    _point(module, name, address)


def replace_all(
    tables: Mapping[ModuleType, Any], refused: Callable[[str], Exception], lock: threading.RLock
) -> None:
    """Replace every function of modules, in their tables and as Python sees them.

    Parameters
    ----------
    tables : mapping
        For each module an object with a method for each entry that it offers. The annotations of a
        method give the type that the entry has to have.
    refused : callable
        Makes the exception of an entry that is not offered from its name.
    lock : threading.RLock
        Held while a function runs.
    """
    python: list[tuple[ModuleType, str, Callable[..., Any]]] = []
    entries: list[tuple[ModuleType, str]] = []
    functions: list[Callable[..., Any]] = []
    types: list[str] = []
    for module, offered in tables.items():
        for name in _functions(module):
            method = getattr(offered, name, None)
            found = signature(module, name) if name in module.__pyx_capi__ else ""
            if method is None:
                method = functools.partial(_refuse, refused, f"{module.__name__}.{name}")
            elif found not in (expected := _types(module, name, method)):
                raise UnknownSignature(module, name, found, expected[0])
            wrapped = _locked(method, lock)
            python.append((module, name, wrapped))
            if found:
                entries.append((module, name))
                functions.append(_of_c(wrapped, method))
                failed = _FAILED.get(name, -1 if found.startswith("int ") else 0)
                types.append(f"E({failed},{found})")
    # All types are as expected: nothing is half replaced.
    for module, name, wrapped in python:
        setattr(module, name, wrapped)
    library = ctypes.CDLL(str(build(_SOURCE, [f"-DCSM_ENTRIES={' '.join(types)}"], (), "-O1")))
    called = (ctypes.c_void_p * len(functions)).in_dll(library, "csm_functions")
    addresses = (ctypes.c_void_p * len(functions)).in_dll(library, "csm_entries")
    for i, (module, name) in enumerate(entries):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(functions[i]))  # never freed: C holds them
        called[i] = id(functions[i])
        _point(module, name, addresses[i])


def _functions(module: ModuleType) -> list[str]:
    """Return the names of a module's functions that may reach the driver."""
    table = [name for name in module.__pyx_capi__ if _is_function(signature(module, name))]
    python = [
        name
        for name, value in vars(module).items()
        if inspect.isbuiltin(value) or type(value).__name__ == "cython_function_or_method"
    ]
    return [name for name in dict.fromkeys(table + python) if name not in _INNOCENT]


# What says how CuPy was built, and what turns the driver's status into an exception.
_INNOCENT = {"get_build_version", "check_status", "_export_enum", "_getLocalRuntimeVersion"}


def _is_function(kind: str) -> bool:
    return "(" in kind and not kind.startswith(_BY_VALUE)


def _refuse(refused: Callable[[str], Exception], name: str, *_: Any, **__: Any) -> None:
    raise refused(name)


def _locked(function: Callable[..., Any], lock: threading.RLock) -> Callable[..., Any]:
    def call(*given: Any, **named: Any) -> Any:
        with lock:
            return function(*given, **named)

    return call


def _of_c(wrapped: Callable[..., Any], method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that leaves out the arguments of Cython's own."""
    if isinstance(method, functools.partial):
        return wrapped
    count = len(_required(method))
    return lambda *given: wrapped(*given[:count])


def _required(method: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(method).parameters.values()
    return [p.name for p in parameters if p.default is inspect.Parameter.empty]


def _types(module: ModuleType, name: str, method: Callable[..., Any]) -> tuple[str, ...]:
    """Return the types that an entry can have to be replaced by a method: cpdef and cdef."""
    hints = typing.get_type_hints(method, include_extras=True)
    required = [_type(hints[p]) for p in _required(method)]
    given = ", ".join([*required, _SKIP])
    if len(required) < len(inspect.signature(method).parameters):
        place = "".join(f"{len(part)}{part}_" for part in module.__name__.split("."))
        given += f", struct __pyx_opt_args_{place}{name} *__pyx_optional_args"
    returned = _type(hints["return"])
    star = "" if returned.endswith("*") else " "
    return f"{returned}{star}({given})", f"{returned}{star}({', '.join(required) or 'void'})"


def _type(hint: Any) -> str:
    if typing.get_origin(hint) is Annotated:
        return str(hint.__metadata__[0])
    return {int: "int", float: "float"}.get(hint, "PyObject *")
