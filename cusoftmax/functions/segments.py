"""Softmax of rows of unequal length that are laid end to end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cusoftmax.runtime import launch

if TYPE_CHECKING:
    import cupy
    from numpy.typing import DTypeLike


def segment_softmax(
    x: cupy.ndarray,
    offsets: cupy.ndarray,
    out: cupy.ndarray | None = None,
    dtype: DTypeLike | None = None,
) -> cupy.ndarray:
    """Softmax of each of many segments of unequal length, laid end to end.

    Segment ``s`` is ``x[offsets[s]:offsets[s + 1]]``, and softmax is taken along it: over the edges
    of a node in graph attention, or over a sequence of a packed batch. The lengths are never known
    to the host, so nothing waits for the GPU.

    Parameters
    ----------
    x : cupy.ndarray, shape (E, ...)
        The segments' elements, of any strides and accepted dtype, as for `softmax`. Further
        dimensions, such as the heads of graph attention, are columns with the same segments.
    offsets : cupy.ndarray, shape (S + 1,)
        Where the segments begin, and where the last ends: int32 or int64, from 0 up to E. A segment
        may be empty.
    out : cupy.ndarray, optional
        Where to write the result: same shape as `x`, a float dtype, any strides. It may be `x`
        itself.
    dtype : dtype, optional
        Dtype of the result, any of the floats. By default that of `x`, or of `out`.

    Returns
    -------
    cupy.ndarray
        The result, of the shape of `x`; `out` if it was given.

    Raises
    ------
    TypeError
        If an array is not a CuPy array, or a dtype is not accepted.
    ValueError
        If `x` has no dimensions, or `offsets` not one or no entry; if `offsets` or `out` is on
        another device, or `out` has another shape or dtype than is asked for, has elements that
        share memory, or overlaps an input without being `x`.

    Notes
    -----
    Offsets that do not rise from 0 to E, which only the GPU can see, make the whole result NaN.

    A segment has the bits that `softmax` gives it as a contiguous row of that dtype, wherever it
    stands and whatever the others are. Short segments are read once and long ones twice. Columns
    that lie side by side are read one after the other, by accesses that are not contiguous.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> x = cupy.asarray([2.0, 4.0, 2.0, 1.0, 0.0, 0.0])
    >>> cusoftmax.segment_softmax(x, cupy.asarray([0, 4, 4, 6])).round(4)
    array([0.1025, 0.7573, 0.1025, 0.0377, 0.5   , 0.5   ])
    """
    return launch.run("segment_softmax", (x, offsets), 0, dtype, out)


def segment_softmax_vjp(
    y: cupy.ndarray,
    dy: cupy.ndarray,
    offsets: cupy.ndarray,
    out: cupy.ndarray | None = None,
) -> cupy.ndarray:
    """Gradient of a loss with respect to segment_softmax's input: the vector-Jacobian product.

    ``dx = y * (dy - sum_j y_j dy_j)``, the sum over each element's own segment.

    Parameters
    ----------
    y : cupy.ndarray, shape (E, ...)
        The result of `segment_softmax`, of any strides and accepted dtype.
    dy : cupy.ndarray, shape (E, ...)
        Gradient of the loss with respect to `y`. Same shape; its dtype may differ.
    offsets : cupy.ndarray, shape (S + 1,)
        As given to `segment_softmax`.
    out : cupy.ndarray, optional
        Where to write the result: same shape, a float dtype, any strides. It may be `y` or `dy`
        itself.

    Returns
    -------
    cupy.ndarray
        The gradient, in the dtype that `softmax_vjp` would give.

    Raises
    ------
    TypeError, ValueError
        As `segment_softmax`; ValueError also if `y` and `dy` differ in shape or device.

    Notes
    -----
    As for `segment_softmax`, offsets that do not rise from 0 to E make the whole result NaN.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> offsets = cupy.asarray([0, 4, 4, 6])
    >>> y = cusoftmax.segment_softmax(cupy.asarray([2.0, 4.0, 2.0, 1.0, 0.0, 0.0]), offsets)
    >>> cusoftmax.segment_softmax_vjp(y, cupy.asarray([0.0, 1, 0, 0, 0, 1]), offsets).round(4)
    array([-0.0776,  0.1838, -0.0776, -0.0286, -0.25  ,  0.25  ])
    """
    return launch.run("segment_softmax_vjp", (y, dy, offsets), 0, None, out)
