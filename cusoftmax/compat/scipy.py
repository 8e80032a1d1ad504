"""softmax, log_softmax and logsumexp with the signatures and defaults of `scipy.special`.

Change the import, and code written for `cupyx.scipy.special` runs these kernels::

    from cusoftmax.compat.scipy import softmax

Arrays are CuPy arrays, of the dtypes and any of the strides that the rest of the package takes. The
difference to SciPy: arrays without elements along the axis give what an empty sum gives, instead of
an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cusoftmax

if TYPE_CHECKING:
    import cupy

Axis = int | tuple[int, ...] | None

__all__ = ["log_softmax", "logsumexp", "softmax"]


def softmax(x: cupy.ndarray, axis: Axis = None) -> cupy.ndarray:
    """Softmax over `axis`, by default over the whole array: `cusoftmax.softmax`.

    Parameters
    ----------
    x : cupy.ndarray
        Any shape, strides and accepted dtype.
    axis : int, tuple of int or None
        Axes that are normalised together; all of them for None.

    Returns
    -------
    cupy.ndarray
        The result, of the shape of `x`.

    Raises
    ------
    TypeError, ValueError
        As `cusoftmax.softmax`.
    """
    return cusoftmax.softmax(x, axis)


def log_softmax(x: cupy.ndarray, axis: Axis = None) -> cupy.ndarray:
    """Logarithm of softmax over `axis`, by default over the whole array: `cusoftmax.log_softmax`.

    Parameters
    ----------
    x : cupy.ndarray
        Any shape, strides and accepted dtype.
    axis : int, tuple of int or None
        Axes that are normalised together; all of them for None.

    Returns
    -------
    cupy.ndarray
        The result, of the shape of `x`.

    Raises
    ------
    TypeError, ValueError
        As `cusoftmax.log_softmax`.
    """
    return cusoftmax.log_softmax(x, axis)


def logsumexp(
    a: cupy.ndarray,
    axis: Axis = None,
    b: cupy.ndarray | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
) -> cupy.ndarray | tuple[cupy.ndarray, cupy.ndarray]:
    """``log(sum(b * exp(a)))`` over `axis`, by default over all: `cusoftmax.logsumexp`.

    Parameters
    ----------
    a : cupy.ndarray
        Any shape, strides and accepted dtype.
    axis : int, tuple of int or None
        Axes that are summed over; all of them for None.
    b : cupy.ndarray, optional
        Weights, that broadcast to `a`.
    keepdims : bool
        Whether the axes stay, with size 1.
    return_sign : bool
        Whether to return the sum's sign too, and the logarithm of its magnitude.

    Returns
    -------
    cupy.ndarray, or a pair of them
        The logarithm; with `return_sign` also the sign.

    Raises
    ------
    TypeError, ValueError
        As `cusoftmax.logsumexp`.
    """
    return cusoftmax.logsumexp(a, axis, keepdims, b, return_sign)
