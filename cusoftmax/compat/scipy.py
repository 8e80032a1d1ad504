"""softmax, log_softmax and logsumexp with the signatures and defaults of `scipy.special`.

Change the import, and code written for `cupyx.scipy.special` runs these kernels::

    from cusoftmax.compat.scipy import softmax

The arrays are CuPy arrays, with the dtypes and strides that the rest of the package accepts. Unlike
in SciPy, an empty row is not an error: it gives an empty row, or the logarithm of an empty sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import cusoftmax
from cusoftmax.operations.options import of_a
from cusoftmax.planning.checks import NotCuPy, broadcast_shape, is_array, plain_bool
from cusoftmax.runtime import arrays, launch
from cusoftmax.runtime.accepting import accepting

if TYPE_CHECKING:
    import cupy

Axis = int | tuple[int, ...] | None

__all__ = ["log_softmax", "logsumexp", "softmax"]


def softmax(x: cupy.ndarray, axis: Axis = None) -> cupy.ndarray:
    """Softmax over `axis`, by default over the whole array.

    Parameters
    ----------
    x : cupy.ndarray
        As for `cusoftmax.softmax`.
    axis : int, tuple of int or None
        Axes that are normalised together; None means all of them.

    Returns
    -------
    cupy.ndarray
        The result, with the shape of `x`.

    Raises
    ------
    TypeError, ValueError
        As `cusoftmax.softmax`.
    """
    return cusoftmax.softmax(x, axis)


def log_softmax(x: cupy.ndarray, axis: Axis = None) -> cupy.ndarray:
    """Logarithm of softmax over `axis`, by default over the whole array.

    Parameters
    ----------
    x : cupy.ndarray
        As for `cusoftmax.log_softmax`.
    axis : int, tuple of int or None
        Axes that are normalised together; None means all of them.

    Returns
    -------
    cupy.ndarray
        The result, with the shape of `x`.

    Raises
    ------
    TypeError, ValueError
        As `cusoftmax.log_softmax`.
    """
    return cusoftmax.log_softmax(x, axis)


@overload
def logsumexp(
    a: cupy.ndarray,
    axis: Axis = ...,
    b: cupy.ndarray | None = ...,
    keepdims: bool = ...,
    return_sign: Literal[False] = ...,
) -> cupy.ndarray: ...
@overload
def logsumexp(
    a: cupy.ndarray,
    axis: Axis = ...,
    b: cupy.ndarray | None = ...,
    keepdims: bool = ...,
    *,
    return_sign: Literal[True],
) -> tuple[cupy.ndarray, cupy.ndarray]: ...
@overload
def logsumexp(
    a: cupy.ndarray,
    axis: Axis = ...,
    b: cupy.ndarray | None = ...,
    keepdims: bool = ...,
    return_sign: bool = ...,
) -> cupy.ndarray | tuple[cupy.ndarray, cupy.ndarray]: ...
def logsumexp(
    a: cupy.ndarray,
    axis: Axis = None,
    b: cupy.ndarray | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
) -> cupy.ndarray | tuple[cupy.ndarray, cupy.ndarray]:
    """``log(sum(b * exp(a)))`` over `axis`, by default over the whole array.

    Parameters
    ----------
    a : cupy.ndarray
        As `x` for `cusoftmax.logsumexp`.
    axis, b, keepdims, return_sign
        As for `cusoftmax.logsumexp`, but `axis` is None by default: all axes.

    Returns
    -------
    cupy.ndarray, or a pair of them
        The logarithm; with `return_sign` also the sign.

    Raises
    ------
    TypeError, ValueError
        As `cusoftmax.logsumexp`.
    """
    signed = plain_bool("logsumexp", "return_sign", return_sign)
    if b is None:
        name = of_a("logsumexp" + "_sign" * signed)
        return launch.run(name, (a,), axis, None, None, keepdims)
    return _weighted(a, b, axis, keepdims, of_a("logsumexp_b" + "_sign" * signed))


@accepting("a", "b")
def _weighted(a: Any, b: Any, axis: Axis, keepdims: bool, name: str) -> Any:
    """Run logsumexp with weights; `a` and `b` are broadcast against each other."""
    if not is_array(a) or not is_array(b):
        raise NotCuPy("logsumexp")
    shape = broadcast_shape("logsumexp", ("a", a.shape), ("b", b.shape))
    inputs = tuple(arrays.broadcast_to(each, shape) for each in (a, b))
    return launch.run(name, inputs, axis, None, None, keepdims)
