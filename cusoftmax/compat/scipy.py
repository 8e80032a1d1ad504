"""softmax, log_softmax and logsumexp with the signatures and defaults of `scipy.special`.

Change the import, and code written for `cupyx.scipy.special` runs these kernels::

    from cusoftmax.compat.scipy import softmax

Or leave the code as it is, and let `scipy.special` and `cupyx.scipy.special` run them (`patch`).

The arrays are those that the rest of the package accepts. Unlike in SciPy, an empty row is not an
error: it gives an empty row, or the logarithm of an empty sum.
"""

from __future__ import annotations

import importlib
from _thread import allocate_lock
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, overload

import cusoftmax
from cusoftmax.operations.dtypes import INPUTS
from cusoftmax.operations.options import of_a
from cusoftmax.planning.checks import NotCuPy, broadcast_shape, is_array, plain_bool
from cusoftmax.runtime import arrays, launch
from cusoftmax.runtime.launch import accepting

if TYPE_CHECKING:
    from cusoftmax.functions._types import AnyArray, ArrayT

Axis = int | tuple[int, ...] | None

__all__ = ["log_softmax", "logsumexp", "patch", "softmax"]


def softmax(x: ArrayT, axis: Axis = None) -> ArrayT:
    """Softmax over `axis`, by default over the whole array, as `scipy.special.softmax`.

    ``y_i = exp(x_i) / sum_j exp(x_j)``.

    Parameters
    ----------
    x : array
        As for `cusoftmax.softmax`.
    axis : int, tuple of int or None
        Axes that are normalised together; None means all of them.

    Returns
    -------
    array
        The result, with the shape and dtype of `x`; float64 for integers and bool.

    Raises
    ------
    TypeError, ValueError
        As `cusoftmax.softmax`.

    Examples
    --------
    >>> import cupy
    >>> from cusoftmax.compat import scipy
    >>> scipy.softmax(cupy.asarray([[2.0, 4.0], [2.0, 1.0]])).round(4)
    array([[0.1025, 0.7573],
           [0.1025, 0.0377]])
    """
    return cusoftmax.softmax(x, axis)


def log_softmax(x: ArrayT, axis: Axis = None) -> ArrayT:
    """Logarithm of softmax over `axis`, by default over the whole array.

    ``y_i = x_i - log sum_j exp(x_j)``, as `scipy.special.log_softmax`.

    Parameters
    ----------
    x : array
        As for `cusoftmax.log_softmax`.
    axis : int, tuple of int or None
        Axes that are normalised together; None means all of them.

    Returns
    -------
    array
        The result, with the shape and dtype of `x`; float64 for integers and bool.

    Raises
    ------
    TypeError, ValueError
        As `cusoftmax.log_softmax`.

    Examples
    --------
    >>> import cupy
    >>> from cusoftmax.compat import scipy
    >>> scipy.log_softmax(cupy.asarray([2.0, 4.0, 2.0, 1.0])).round(4)
    array([-2.278, -0.278, -2.278, -3.278])
    """
    return cusoftmax.log_softmax(x, axis)


@overload
def logsumexp(
    a: ArrayT,
    axis: Axis = ...,
    b: AnyArray | None = ...,
    keepdims: bool = ...,
    return_sign: Literal[False] = ...,
) -> ArrayT: ...
@overload
def logsumexp(
    a: ArrayT,
    axis: Axis = ...,
    b: AnyArray | None = ...,
    keepdims: bool = ...,
    *,
    return_sign: Literal[True],
) -> tuple[ArrayT, ArrayT]: ...
@overload
def logsumexp(
    a: ArrayT,
    axis: Axis = ...,
    b: AnyArray | None = ...,
    keepdims: bool = ...,
    return_sign: bool = ...,
) -> ArrayT | tuple[ArrayT, ArrayT]: ...
def logsumexp(
    a: ArrayT,
    axis: Axis = None,
    b: AnyArray | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
) -> ArrayT | tuple[ArrayT, ArrayT]:
    """``log(sum(b * exp(a)))`` over `axis`, by default over the whole array.

    The meaning is that of `scipy.special.logsumexp`.

    Parameters
    ----------
    a : array
        As `x` for `cusoftmax.logsumexp`.
    axis, b, keepdims, return_sign
        As for `cusoftmax.logsumexp`, but `axis` is None by default: all axes. `a` and `b` are
        broadcast against each other, without a copy.

    Returns
    -------
    array, or a pair of them
        The logarithm, with the shape and dtype as in `cusoftmax.logsumexp`; with `return_sign` also
        the sign.

    Raises
    ------
    TypeError, ValueError
        As `cusoftmax.logsumexp`; ValueError also if `a` and `b` do not broadcast.

    Examples
    --------
    >>> import cupy
    >>> from cusoftmax.compat import scipy
    >>> float(scipy.logsumexp(cupy.asarray([2.0, 4.0, 2.0, 1.0])).round(4))
    4.278
    """
    signed = plain_bool("logsumexp", "return_sign", return_sign)
    if b is None:
        name = of_a("logsumexp" + "_sign" * signed)
        return launch.run(name, (a,), axis, None, None, keepdims)
    return _weighted(a, b, axis, keepdims, of_a("logsumexp_b" + "_sign" * signed))  # type: ignore[no-any-return]


@accepting("a", "b")
def _weighted(a: Any, b: Any, axis: Axis, keepdims: bool, name: str) -> Any:
    """Run logsumexp with weights; `a` and `b` are broadcast against each other."""
    if not is_array(a) or not is_array(b):
        raise NotCuPy("logsumexp")
    if a.shape != b.shape:
        shape = broadcast_shape("logsumexp", ("a", a.shape), ("b", b.shape))
        a, b = (arrays.broadcast_to(each, shape) for each in (a, b))
    return launch.run(name, (a, b), axis, None, None, keepdims)


# ---- the functions of SciPy and CuPy themselves

_MODULES = ("scipy.special", "cupyx.scipy.special")
_LOCK = allocate_lock()
_replaced: list[tuple[ModuleType, str, Callable[..., Any]]] = []  # with the functions from before
_patches = 0  # that are not undone


class Patch:
    """What `patch` has done; leaving it as a context undoes that."""

    def __init__(self) -> None:
        self._done = False

    def __enter__(self) -> Patch:
        return self

    def __exit__(self, *_: object) -> None:
        global _patches
        with _LOCK:
            if self._done:
                return
            self._done = True
            _patches -= 1
            while not _patches and _replaced:
                module, name, before = _replaced.pop()
                setattr(module, name, before)


def patch() -> Patch:
    """Let `scipy.special` and `cupyx.scipy.special` use these functions for CuPy arrays.

    It holds for their `softmax`, `log_softmax` and `logsumexp`, in all threads, from this call on:
    for good or, as a context manager, until its end. Contexts may be nested or overlap: the last to
    end undoes it. Arrays that are not CuPy's, dtypes that these functions do not accept, such as
    complex ones, and weights that are numbers still take the functions from before.

    A name that was imported from these modules before, ``from scipy.special import softmax``,
    is not affected.

    Returns
    -------
    Patch
        To be used in a ``with`` statement, or ignored.

    Raises
    ------
    ImportError
        If there is neither of the two modules.

    Examples
    --------
    >>> import cupy, scipy.special, cusoftmax.compat.scipy
    >>> with cusoftmax.compat.scipy.patch():
    ...     scipy.special.softmax(cupy.asarray([2.0, 4.0, 2.0, 1.0])).round(4)
    array([0.1025, 0.7573, 0.1025, 0.0377])
    """
    global _patches
    with _LOCK:
        if not _patches:
            modules = [module for module in map(_imported, _MODULES) if module is not None]
            if not modules:
                raise ImportError(f"patch: there is none of {', '.join(_MODULES)}; install SciPy")
            for module in modules:
                for name, replacement in _REPLACEMENTS.items():
                    before = getattr(module, name)
                    _replaced.append((module, name, before))
                    setattr(module, name, replacement(before))
        _patches += 1
    return Patch()


def _imported(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _is_accepted(array: Any) -> bool:
    return is_array(array) and array.dtype.name in INPUTS


def _normalising(own: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what replaces softmax or log_softmax."""

    def replacement(before: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(before)
        def function(x: Any, axis: Any = None) -> Any:
            return own(x, axis) if _is_accepted(x) else before(x, axis=axis)

        return function

    return replacement


def _summing(before: Callable[..., Any]) -> Callable[..., Any]:
    """Return what replaces logsumexp."""

    @wraps(before)
    def function(
        a: Any, axis: Any = None, b: Any = None, keepdims: Any = False, return_sign: Any = False
    ) -> Any:
        if _is_accepted(a) and (b is None or _is_accepted(b)):
            return logsumexp(a, axis, b, bool(keepdims), bool(return_sign))
        return before(a, axis=axis, b=b, keepdims=keepdims, return_sign=return_sign)

    return function


_REPLACEMENTS = {
    "softmax": _normalising(softmax),
    "log_softmax": _normalising(log_softmax),
    "logsumexp": _summing,
}
