"""Softmax of segments: rows of unequal length that lie end to end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cusoftmax.runtime import launch

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from cusoftmax.functions._types import AnyArray, ArrayT


def segment_softmax(
    x: ArrayT,
    offsets: AnyArray,
    out: AnyArray | None = None,
    dtype: DTypeLike | None = None,
) -> ArrayT:
    """Softmax of each of many segments of unequal length that lie end to end.

    ``y_i = exp(x_i) / sum_j exp(x_j)``, the sum over the elements ``j`` of the segment of ``i``.
    Segment ``s`` is ``x[offsets[s]:offsets[s + 1]]``; it may hold the edges of a node in graph
    attention, or a sequence of a packed batch. The host never reads the offsets, so nothing waits
    for the GPU.

    Parameters
    ----------
    x : array, shape (E, ...)
        The elements of the segments; strides and dtypes as for `softmax`. Further dimensions, such
        as the heads of graph attention, are columns with the same segments.
    offsets : array, shape (S + 1,)
        Where each segment begins, and where the last one ends: int32 or int64, rising from 0 to E.
        A segment may be empty.
    out, dtype
        As for `softmax`.

    Returns
    -------
    array
        The result, with the shape of `x` and the dtype that `dtype` says; `out` if it was given.

    Raises
    ------
    TypeError
        If an array is none that a GPU reads or has another dtype than those accepted, or another
        argument is of the wrong kind.
    ValueError
        If an array is misaligned; if `x` has no dimensions; if `offsets` is empty or not
        one-dimensional; if an array is on another device than `x`; if `out` has the wrong shape or
        dtype, has elements that share memory, or overlaps an input without being `x` itself.

    Notes
    -----
    If offsets do not rise from 0 to E, the whole result is NaN, because only the GPU reads them.

    A segment has the same bits as `softmax` of it as a contiguous row, whatever its place and the
    other segments. Short segments are read once and long ones twice. Columns that lie side by side
    are read one after the other, so their accesses are not contiguous.

    References
    ----------
    docs/derivation.md: The function.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> x = cupy.asarray([2.0, 4.0, 2.0, 1.0, 0.0, 0.0])
    >>> cusoftmax.segment_softmax(x, cupy.asarray([0, 4, 4, 6])).round(4)
    array([0.1025, 0.7573, 0.1025, 0.0377, 0.5   , 0.5   ])
    """
    return launch.run("segment_softmax", (x, offsets), 0, dtype, out)


def segment_softmax_vjp(
    y: ArrayT,
    dy: AnyArray,
    offsets: AnyArray,
    out: AnyArray | None = None,
) -> ArrayT:
    """Gradient of a loss with respect to segment_softmax's input: the vector-Jacobian product.

    ``dx = y * (dy - sum_j y_j dy_j)``, the sum over each element's own segment.

    Parameters
    ----------
    y : array, shape (E, ...)
        The result of `segment_softmax`; any strides and accepted dtype.
    dy : array, shape (E, ...)
        Gradient of the loss with respect to `y`. Same shape; its dtype may differ.
    offsets : array, shape (S + 1,)
        As given to `segment_softmax`.
    out : array, optional
        As for `softmax_vjp`.

    Returns
    -------
    array
        The gradient; its dtype as in `softmax_vjp`.

    Raises
    ------
    TypeError, ValueError
        As `segment_softmax`; ValueError also if `y` and `dy` differ in shape or device.

    Notes
    -----
    As in `segment_softmax`, the whole result is NaN if offsets do not rise from 0 to E. Each
    segment of `y` must sum to 1: see `softmax_vjp`.

    References
    ----------
    docs/derivation.md: Its products with a vector.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> offsets = cupy.asarray([0, 4, 4, 6])
    >>> y = cusoftmax.segment_softmax(cupy.asarray([2.0, 4.0, 2.0, 1.0, 0.0, 0.0]), offsets)
    >>> cusoftmax.segment_softmax_vjp(y, cupy.asarray([0.0, 1, 0, 0, 0, 1]), offsets).round(4)
    array([-0.0776,  0.1838, -0.0776, -0.0286, -0.25  ,  0.25  ])
    """
    return launch.run("segment_softmax_vjp", (y, dy, offsets), 0, None, out)
