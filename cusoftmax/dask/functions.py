"""The public functions: they check arguments, infer what results are, and build graphs."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING, Any, Literal

import dask.array as da
import numpy as np

from cusoftmax.dask.graphs import build
from cusoftmax.dask.tasks import CLASS, ELEMENT, ROW, SELECTED, Task
from cusoftmax.functions._losses import Options
from cusoftmax.functions.sampling import draw_of
from cusoftmax.functions.selection import selection_of
from cusoftmax.operations.dtypes import FLOATS, INDICES, INPUTS, compute_dtype, output_dtype
from cusoftmax.operations.lookup import find
from cusoftmax.planning.checks import (
    accepted_name,
    accepted_number,
    as_dtype,
    broadcasts,
    check_choice,
    check_selection,
    check_shape,
    float_name,
    full_name,
    is_array,
    plain_bool,
    resolve_axes,
)
from cusoftmax.runtime import arrays

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike


def softmax(
    x: da.Array,
    axis: int = -1,
    dtype: DTypeLike | None = None,
    *,
    scale: float | None = None,
    mask: da.Array | None = None,
    bias: da.Array | None = None,
) -> da.Array:
    """Softmax of an array of Dask: ``y_i = exp(x_i) / sum_j exp(x_j)``.

    As `cusoftmax.softmax`, for rows along one axis, of any chunks.

    Parameters
    ----------
    x : dask.array.Array, shape (..., n, ...)
        With blocks of NumPy or CuPy, of a dtype that `cusoftmax.softmax` accepts.
    axis : int
        The axis of the rows.
    dtype : dtype, optional
        Float dtype of the result, by default that of `x`, and float64 for integers and bool.
    scale : float, optional
        As in `cusoftmax.softmax`.
    mask, bias : dask.array.Array, optional
        As in `cusoftmax.softmax`: of the shape of `x`, or one that broadcasts to it. Chunks differ
        from those of `x` as they like.

    Returns
    -------
    dask.array.Array
        Of the shape of `x` and the dtype asked for, with blocks of the same library.

    Raises
    ------
    TypeError
        If `x` is no array of Dask, its blocks are of another library, its dtype is not accepted, or
        another argument is of the wrong kind.
    ValueError
        If `x` has no dimensions, or chunks of unknown size.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    Notes
    -----
    Nothing is computed. Rows that lie in several chunks along `axis` take three layers of tasks:
    ``cusoftmax-softmax-partial`` makes the nodes of each chunk, a few words a row
    (``cusoftmax.nodes``), ``-combine`` folds them in a tree, eight at a time, and
    ``cusoftmax-softmax`` writes results. Rows that lie in one chunk take the last alone.

    Along `axis`, chunks begin at multiples of 1024, and rows of at most 1024 elements are one
    chunk. An array with other chunks is rechunked first, which the graph shows as layers ``rechunk-
    merge`` and ``rechunk-split``: to no chunk that has more elements than the largest one that came
    in or, if that is more, than 1024 of one row. Results keep the new chunks.

    A row has the bits that `cusoftmax.softmax` gives it where its elements are neighbours in
    memory, whatever `axis` and the chunks are.

    Blocks of NumPy are computed on the emulator where it is active, and else on the current GPU.

    Examples
    --------
    >>> import dask.array, cusoftmax.dask
    >>> x = dask.array.from_array([[2.0, 4.0, 2.0, 1.0]], chunks=2)
    >>> cusoftmax.dask.softmax(x).compute().round(4)
    array([[0.1025, 0.7573, 0.1025, 0.0377]])
    """
    return _run("softmax", {"x": x}, axis, dtype, scale=scale, mask=mask, bias=bias)


def log_softmax(
    x: da.Array,
    axis: int = -1,
    dtype: DTypeLike | None = None,
    *,
    scale: float | None = None,
    mask: da.Array | None = None,
    bias: da.Array | None = None,
) -> da.Array:
    """Logarithm of softmax of an array of Dask: ``y_i = x_i - log(sum_j exp(x_j))``.

    As `cusoftmax.log_softmax`, for rows along one axis, of any chunks.

    Parameters
    ----------
    x, axis, dtype, scale, mask, bias
        As for `softmax`.

    Returns
    -------
    dask.array.Array
        Of the shape of `x` and the float dtype asked for, by default that of `x`.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As by `softmax`.

    Examples
    --------
    >>> import dask.array, cusoftmax.dask
    >>> x = dask.array.from_array([[2.0, 4.0, 2.0, 1.0]], chunks=2)
    >>> cusoftmax.dask.log_softmax(x).compute().round(4)
    array([[-2.278, -0.278, -2.278, -3.278]])
    """
    return _run("log_softmax", {"x": x}, axis, dtype, scale=scale, mask=mask, bias=bias)


def logsumexp(
    x: da.Array,
    axis: int = -1,
    dtype: DTypeLike | None = None,
    *,
    scale: float | None = None,
    mask: da.Array | None = None,
    bias: da.Array | None = None,
) -> da.Array:
    """Logarithm of a sum of exponentials of an array of Dask: ``log(sum_j exp(x_j))``.

    As `cusoftmax.logsumexp`, for rows along one axis, of any chunks.

    Parameters
    ----------
    x, axis, dtype, scale, mask, bias
        As for `softmax`.

    Returns
    -------
    dask.array.Array
        A value for each row, with the shape of `x` without `axis`, of the float dtype asked for, by
        default that of `x`.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As by `softmax`.

    Notes
    -----
    Each chunk is read once, whatever the chunks are, and is not needed any more after that.

    Examples
    --------
    >>> import dask.array, cusoftmax.dask
    >>> x = dask.array.from_array([[2.0, 4.0, 2.0, 1.0]], chunks=2)
    >>> cusoftmax.dask.logsumexp(x).compute().round(4)
    array([4.278])
    """
    return _run("logsumexp", {"x": x}, axis, dtype, scale=scale, mask=mask, bias=bias)


def softmax_vjp(
    y: da.Array,
    dy: da.Array,
    axis: int = -1,
    *,
    scale: float | None = None,
    mask: da.Array | None = None,
) -> da.Array:
    """Gradient with respect to softmax's input: ``dx = y * (dy - sum_j y_j dy_j)``.

    As `cusoftmax.softmax_vjp`, for rows along one axis, of any chunks.

    Parameters
    ----------
    y : dask.array.Array, shape (..., n, ...)
        The result of `softmax`, of an accepted dtype.
    dy : dask.array.Array
        The gradient with respect to it, of the shape of `y`. Chunks and dtypes may differ.
    axis : int
        The axis of the rows.
    scale, mask
        As for `softmax`.

    Returns
    -------
    dask.array.Array
        Of the shape of `y`, and of the wider of the inputs' dtypes.

    Raises
    ------
    TypeError
        If an input is no array of Dask or has a dtype that is not accepted; if blocks are not of
        one library.
    ValueError
        If the shapes differ; if an input has no dimensions, or chunks of unknown size.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    Notes
    -----
    Inputs whose chunks differ are rechunked to boundaries that hold those of both.

    Examples
    --------
    >>> import dask.array, cusoftmax.dask
    >>> y = dask.array.from_array([[0.25, 0.75]])
    >>> dy = dask.array.from_array([[1.0, 0.0]])
    >>> cusoftmax.dask.softmax_vjp(y, dy).compute()
    array([[ 0.1875, -0.1875]])
    """
    return _run("softmax_vjp", {"y": y, "dy": dy}, axis, scale=scale, mask=mask)


def softmax_jvp(
    y: da.Array,
    xt: da.Array,
    axis: int = -1,
    *,
    scale: float | None = None,
    mask: da.Array | None = None,
) -> da.Array:
    """Change of softmax's result along a change of its input: ``dyt = y * (xt - sum_j y_j xt_j)``.

    As `cusoftmax.softmax_jvp`, for rows along one axis, of any chunks.

    Parameters
    ----------
    y : dask.array.Array, shape (..., n, ...)
        The result of `softmax`, of an accepted dtype.
    xt : dask.array.Array
        The change of softmax's input, of the shape of `y`. Chunks and dtypes may differ.
    axis : int
        The axis of the rows.
    scale, mask
        As for `softmax`.

    Returns
    -------
    dask.array.Array
        Of the shape of `y`, and of the wider of the inputs' dtypes.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As by `softmax_vjp`.

    Examples
    --------
    >>> import dask.array, cusoftmax.dask
    >>> y = dask.array.from_array([[0.25, 0.75]])
    >>> xt = dask.array.from_array([[1.0, 0.0]])
    >>> cusoftmax.dask.softmax_jvp(y, xt).compute()
    array([[ 0.1875, -0.1875]])
    """
    return _run("softmax_jvp", {"y": y, "xt": xt}, axis, scale=scale, mask=mask)


def log_softmax_vjp(
    logy: da.Array,
    dy: da.Array,
    axis: int = -1,
    *,
    scale: float | None = None,
    mask: da.Array | None = None,
) -> da.Array:
    """Gradient with respect to log_softmax's input: ``dx = dy - exp(logy) * sum_j dy_j``.

    As `cusoftmax.log_softmax_vjp`, for rows along one axis, of any chunks.

    Parameters
    ----------
    logy : dask.array.Array, shape (..., n, ...)
        The result of `log_softmax`, of an accepted dtype.
    dy : dask.array.Array
        The gradient with respect to it, of the shape of `logy`. Chunks and dtypes may differ.
    axis : int
        The axis of the rows.
    scale, mask
        As for `softmax`.

    Returns
    -------
    dask.array.Array
        Of the shape of `logy`, and of the wider of the inputs' dtypes.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As by `softmax_vjp`.

    Examples
    --------
    >>> import dask.array, cusoftmax.dask
    >>> logy = cusoftmax.dask.log_softmax(dask.array.from_array([[0.0, 0.0]]))
    >>> dy = dask.array.from_array([[1.0, 0.0]])
    >>> cusoftmax.dask.log_softmax_vjp(logy, dy).compute().round(4)
    array([[ 0.5, -0.5]])
    """
    return _run("log_softmax_vjp", {"logy": logy, "dy": dy}, axis, scale=scale, mask=mask)


def log_softmax_jvp(
    logy: da.Array,
    xt: da.Array,
    axis: int = -1,
    *,
    scale: float | None = None,
    mask: da.Array | None = None,
) -> da.Array:
    """Change of log_softmax's result along one of its input: ``xt - sum_j exp(logy_j) xt_j``.

    As `cusoftmax.log_softmax_jvp`, for rows along one axis, of any chunks.

    Parameters
    ----------
    logy : dask.array.Array, shape (..., n, ...)
        The result of `log_softmax`, of an accepted dtype.
    xt : dask.array.Array
        The change of log_softmax's input, of the shape of `logy`. Chunks and dtypes may differ.
    axis : int
        The axis of the rows.
    scale, mask
        As for `softmax`.

    Returns
    -------
    dask.array.Array
        Of the shape of `logy`, and of the wider of the inputs' dtypes.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As by `softmax_vjp`.

    Examples
    --------
    >>> import dask.array, cusoftmax.dask
    >>> logy = cusoftmax.dask.log_softmax(dask.array.from_array([[0.0, 0.0]]))
    >>> xt = dask.array.from_array([[1.0, 0.0]])
    >>> cusoftmax.dask.log_softmax_jvp(logy, xt).compute().round(4)
    array([[ 0.5, -0.5]])
    """
    return _run("log_softmax_jvp", {"logy": logy, "xt": xt}, axis, scale=scale, mask=mask)


def logsumexp_vjp(
    x: da.Array,
    dy: da.Array,
    axis: int = -1,
    *,
    scale: float | None = None,
    mask: da.Array | None = None,
    bias: da.Array | None = None,
) -> da.Array:
    """Gradient with respect to logsumexp's input: ``dx_i = dy * exp(x_i) / sum_j exp(x_j)``.

    As `cusoftmax.logsumexp_vjp`, for rows along one axis, of any chunks.

    Parameters
    ----------
    x : dask.array.Array, shape (..., n, ...)
        The input of `logsumexp`, of an accepted dtype.
    dy : dask.array.Array
        The gradient with respect to its result: the shape of `x` without `axis`. Its dtype may
        differ.
    axis : int
        The axis of the rows.
    scale, mask, bias
        As for `softmax`.

    Returns
    -------
    dask.array.Array
        Of the shape and the dtype of `x`, float64 for integers.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As by `softmax_vjp`; ValueError if `dy` has not the shape of logsumexp's result.

    Examples
    --------
    >>> import dask.array, cusoftmax.dask
    >>> x = dask.array.from_array([[2.0, 4.0, 2.0, 1.0]], chunks=2)
    >>> dy = dask.array.from_array([1.0])
    >>> cusoftmax.dask.logsumexp_vjp(x, dy).compute().round(4)
    array([[0.1025, 0.7573, 0.1025, 0.0377]])
    """
    return _run("logsumexp_vjp", {"x": x, "dy": dy}, axis, scale=scale, mask=mask, bias=bias)


def softmax_hvp(y: da.Array, dy: da.Array, v: da.Array, axis: int = -1) -> da.Array:
    """Product of a vector with the Hessian of ``x -> sum_i dy_i softmax(x)_i``.

    As `cusoftmax.softmax_hvp`, for rows along one axis, of any chunks.

    Parameters
    ----------
    y : dask.array.Array, shape (..., n, ...)
        The result of `softmax`, of an accepted dtype.
    dy, v : dask.array.Array
        The gradient with respect to it, and the change of softmax's input, of the shape of `y`.
        Chunks and dtypes may differ.
    axis : int
        The axis of the rows.

    Returns
    -------
    dask.array.Array
        Of the shape of `y`, and of the widest of the inputs' dtypes.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As by `softmax_vjp`.

    Examples
    --------
    >>> import dask.array, cusoftmax.dask
    >>> y, e = dask.array.from_array([[0.25, 0.75]]), dask.array.from_array([[1.0, 0.0]])
    >>> cusoftmax.dask.softmax_hvp(y, e, e).compute()
    array([[ 0.09375, -0.09375]])
    """
    return _run("softmax_hvp", {"y": y, "dy": dy, "v": v}, axis)


def softmax_vjp_vjp(
    y: da.Array, dy: da.Array, g: da.Array, axis: int = -1
) -> tuple[da.Array, da.Array]:
    """Both gradients of a loss with respect to the inputs of `softmax_vjp`.

    As `cusoftmax.softmax_vjp_vjp`, for rows along one axis, of any chunks.

    Parameters
    ----------
    y, dy : dask.array.Array, shape (..., n, ...)
        As given to `softmax_vjp`.
    g : dask.array.Array
        The gradient with respect to its result, of the shape of `y`. Chunks and dtypes may differ.
    axis : int
        The axis of the rows.

    Returns
    -------
    gy, gdy : dask.array.Array
        The gradients with respect to `y` and to `dy`: of the shape of `y`, and of the widest of the
        inputs' dtypes.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As by `softmax_vjp`.

    Notes
    -----
    To compute both at once, ``dask.compute(gy, gdy)``: a task makes a block of each.

    Examples
    --------
    >>> import dask.array, cusoftmax.dask
    >>> y, e = dask.array.from_array([[0.25, 0.75]]), dask.array.from_array([[1.0, 0.0]])
    >>> gy, gdy = cusoftmax.dask.softmax_vjp_vjp(y, e, e)
    >>> gdy.compute()
    array([[ 0.1875, -0.1875]])
    """
    return _run("softmax_vjp_vjp", {"y": y, "dy": dy, "g": g}, axis)  # type: ignore[no-any-return]


def softmax_value_and_vjp(
    x: da.Array,
    dy: da.Array,
    axis: int = -1,
    dtype: DTypeLike | None = None,
    *,
    scale: float | None = None,
    mask: da.Array | None = None,
    bias: da.Array | None = None,
) -> tuple[da.Array, da.Array]:
    """Softmax, and the gradient with respect to its input: ``dx = y * (dy - sum_j y_j dy_j)``.

    As `cusoftmax.softmax_value_and_vjp`, for rows along one axis, of any chunks.

    Parameters
    ----------
    x : dask.array.Array, shape (..., n, ...)
        Logits, as for `softmax`.
    dy : dask.array.Array
        The gradient with respect to the result of softmax, of the shape of `x`. Chunks and dtypes
        may differ.
    axis : int
        The axis of the rows.
    dtype : dtype, optional
        Float dtype of both results, by default the wider of the inputs'.
    scale, mask, bias
        As for `softmax`.

    Returns
    -------
    y, dx : dask.array.Array
        Of the shape of `x` and the dtype asked for.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As by `softmax_vjp`.

    Notes
    -----
    To compute both at once, ``dask.compute(y, dx)``: a task makes a block of each.

    Examples
    --------
    >>> import dask.array, cusoftmax.dask
    >>> x, dy = dask.array.from_array([[0.0, 0.0]]), dask.array.from_array([[1.0, 0.0]])
    >>> y, dx = cusoftmax.dask.softmax_value_and_vjp(x, dy)
    >>> dx.compute()
    array([[ 0.25, -0.25]])
    """
    logits: dict[str, Any] = {"scale": scale, "mask": mask, "bias": bias}
    return _run("softmax_value_and_vjp", {"x": x, "dy": dy}, axis, dtype, **logits)  # type: ignore[no-any-return]


def softmax_value_and_jvp(
    x: da.Array,
    xt: da.Array,
    axis: int = -1,
    dtype: DTypeLike | None = None,
    *,
    scale: float | None = None,
    mask: da.Array | None = None,
    bias: da.Array | None = None,
) -> tuple[da.Array, da.Array]:
    """Softmax, and its change along one of its input: ``dyt = y * (xt - sum_j y_j xt_j)``.

    As `cusoftmax.softmax_value_and_jvp`, for rows along one axis, of any chunks.

    Parameters
    ----------
    x : dask.array.Array, shape (..., n, ...)
        Logits, as for `softmax`.
    xt : dask.array.Array
        The change of `x`, of its shape. Chunks and dtypes may differ.
    axis, dtype
        As for `softmax_value_and_vjp`.
    scale, mask, bias
        As for `softmax`.

    Returns
    -------
    y, dyt : dask.array.Array
        Of the shape of `x` and the dtype asked for.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As by `softmax_vjp`.

    Examples
    --------
    >>> import dask.array, cusoftmax.dask
    >>> x, xt = dask.array.from_array([[0.0, 0.0]]), dask.array.from_array([[1.0, 0.0]])
    >>> y, dyt = cusoftmax.dask.softmax_value_and_jvp(x, xt)
    >>> dyt.compute()
    array([[ 0.25, -0.25]])
    """
    logits: dict[str, Any] = {"scale": scale, "mask": mask, "bias": bias}
    return _run("softmax_value_and_jvp", {"x": x, "xt": xt}, axis, dtype, **logits)  # type: ignore[no-any-return]


def log_softmax_value_and_vjp(
    x: da.Array,
    dy: da.Array,
    axis: int = -1,
    dtype: DTypeLike | None = None,
    *,
    scale: float | None = None,
    mask: da.Array | None = None,
    bias: da.Array | None = None,
) -> tuple[da.Array, da.Array]:
    """log_softmax, and the gradient with respect to its input: ``dy - exp(logy) * sum_j dy_j``.

    As `cusoftmax.log_softmax_value_and_vjp`, for rows along one axis, of any chunks.

    Parameters
    ----------
    x : dask.array.Array, shape (..., n, ...)
        Logits, as for `softmax`.
    dy : dask.array.Array
        The gradient with respect to the result of log_softmax, of the shape of `x`. Chunks and
        dtypes may differ.
    axis, dtype
        As for `softmax_value_and_vjp`.
    scale, mask, bias
        As for `softmax`.

    Returns
    -------
    logy, dx : dask.array.Array
        Of the shape of `x` and the dtype asked for.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As by `softmax_vjp`.

    Examples
    --------
    >>> import dask.array, cusoftmax.dask
    >>> x, dy = dask.array.from_array([[0.0, 0.0]]), dask.array.from_array([[1.0, 0.0]])
    >>> logy, dx = cusoftmax.dask.log_softmax_value_and_vjp(x, dy)
    >>> dx.compute()
    array([[ 0.5, -0.5]])
    """
    logits: dict[str, Any] = {"scale": scale, "mask": mask, "bias": bias}
    return _run("log_softmax_value_and_vjp", {"x": x, "dy": dy}, axis, dtype, **logits)  # type: ignore[no-any-return]


def log_softmax_value_and_jvp(
    x: da.Array,
    xt: da.Array,
    axis: int = -1,
    dtype: DTypeLike | None = None,
    *,
    scale: float | None = None,
    mask: da.Array | None = None,
    bias: da.Array | None = None,
) -> tuple[da.Array, da.Array]:
    """log_softmax, and its change along one of its input: ``xt - sum_j exp(logy_j) xt_j``.

    As `cusoftmax.log_softmax_value_and_jvp`, for rows along one axis, of any chunks.

    Parameters
    ----------
    x : dask.array.Array, shape (..., n, ...)
        Logits, as for `softmax`.
    xt : dask.array.Array
        The change of `x`, of its shape. Chunks and dtypes may differ.
    axis, dtype
        As for `softmax_value_and_vjp`.
    scale, mask, bias
        As for `softmax`.

    Returns
    -------
    logy, dlogy : dask.array.Array
        Of the shape of `x` and the dtype asked for.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As by `softmax_vjp`.

    Examples
    --------
    >>> import dask.array, cusoftmax.dask
    >>> x, xt = dask.array.from_array([[0.0, 0.0]]), dask.array.from_array([[1.0, 0.0]])
    >>> logy, dlogy = cusoftmax.dask.log_softmax_value_and_jvp(x, xt)
    >>> dlogy.compute()
    array([[ 0.5, -0.5]])
    """
    logits: dict[str, Any] = {"scale": scale, "mask": mask, "bias": bias}
    return _run("log_softmax_value_and_jvp", {"x": x, "xt": xt}, axis, dtype, **logits)  # type: ignore[no-any-return]


def topk_softmax(
    x: da.Array,
    k: int,
    axis: int = -1,
    normalise: Literal["row", "topk"] = "row",
    dtype: DTypeLike | None = None,
) -> tuple[da.Array, da.Array]:
    """The `k` largest probabilities of each row and their indices.

    As `cusoftmax.topk_softmax`, of any chunks.

    Parameters
    ----------
    x : dask.array.Array, shape (..., n, ...)
        As for `softmax`.
    k : int
        How many to select: from 1 to 64, and at most the length of a row. A chunk may have fewer.
    axis : int
        The axis of the rows.
    normalise : {"row", "topk"}
        Whether probabilities are those of `softmax`, or sum to 1 over the `k`.
    dtype : dtype, optional
        Float dtype of the values, by default that of `x`, and float64 for integers and bool.

    Returns
    -------
    values, indices : dask.array.Array
        The shape of `x`, but with `k` elements along `axis`, which are one chunk, in descending
        order of the values. The int64 indices are those in the whole row.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As by `softmax`; ValueError too if `k` or `normalise` is not one of those above.

    Notes
    -----
    Each chunk is read once, whatever the chunks are, and is not needed any more after that. To
    compute both results at once, ``dask.compute(values, indices)``.

    Examples
    --------
    >>> import dask, dask.array, cusoftmax.dask
    >>> x = dask.array.from_array([[2.0, 4.0, 2.0, 1.0]], chunks=2)
    >>> values, indices = dask.compute(*cusoftmax.dask.topk_softmax(x, 2))
    >>> values.round(4), indices
    (array([[0.7573, 0.1025]]), array([[1, 0]]))
    """
    options = (("k", k), ("normalise", normalise))
    return _run("topk_softmax", {"x": x}, axis, dtype, options)  # type: ignore[no-any-return]


def sample(x: da.Array, axis: int = -1, *, seed: int, temperature: float = 1.0) -> da.Array:
    """One draw from ``softmax(x / temperature)`` for each row.

    As `cusoftmax.sample`, of any chunks: the noise of an element follows from the seed, the number
    of its row in the whole array and its index in the row.

    Parameters
    ----------
    x : dask.array.Array, shape (..., n, ...)
        Logits, as for `softmax`, of rows that have an element.
    axis : int
        The axis of the categories.
    seed, temperature
        As for `cusoftmax.sample`. The same seed gives the same draws, also after a worker was lost.

    Returns
    -------
    dask.array.Array
        An int64 index for each row, with the shape of `x` without `axis`; -1 for a row without a
        distribution.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As by `softmax`; ValueError too if `seed` or `temperature` is out of range, or rows have no
        element.

    Notes
    -----
    Each chunk is read once, whatever the chunks are, and is not needed any more after that.

    Examples
    --------
    >>> import dask.array, cusoftmax.dask
    >>> x = dask.array.from_array([[2.0, 4.0, 2.0, 1.0]] * 5, chunks=(2, 2))
    >>> cusoftmax.dask.sample(x, seed=7).compute()
    array([3, 2, 0, 1, 1])
    """
    return _run("sample", {"x": x}, axis, None, (("seed", seed), ("temperature", temperature)))


def cross_entropy(
    logits: da.Array,
    target: da.Array,
    axis: int = -1,
    weight: da.Array | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    *,
    grad: bool = False,
) -> Any:
    """Loss of each row of logits, ``log(sum_j exp(x_j)) - x_t``, and the gradient of their sum.

    As `cusoftmax.cross_entropy` without a reduction, of any chunks. The sum of the losses is
    ``loss.sum()``, whose order and so whose last bits depend on the chunks.

    Parameters
    ----------
    logits : dask.array.Array, shape (..., C, ...)
        With the classes along `axis`, of a dtype that `cusoftmax.cross_entropy` accepts.
    target : dask.array.Array
        Integers, the class of each row, with the shape of `logits` without `axis`; or floats, the
        probability of each class, with the shape of `logits`.
    axis : int
        The axis of the classes.
    weight : dask.array.Array, shape (C,), optional
        A weight for each class, of a float dtype. It is one chunk for every task.
    ignore_index, label_smoothing, z_loss, softcap
        As for `cusoftmax.cross_entropy`.
    grad : bool
        Whether to return the gradient too.

    Returns
    -------
    loss : dask.array.Array
        The loss of each row, with the shape of `logits` without `axis`. Its dtype is that of
        `logits`, or float64 for integers.
    dlogits : dask.array.Array
        With `grad`: the gradient, with the shape of `logits` and the dtype of `loss`.

    Raises
    ------
    TypeError
        If an input is no array of Dask or has a dtype that is not accepted; if blocks are not of
        one library, or another argument is of the wrong kind.
    ValueError
        If shapes do not fit each other, or an option is out of range; if `logits` has no
        dimensions; if chunks are of unknown size.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    Notes
    -----
    Chunks, names of tasks and bits are as those of `softmax`; the layers of two results end in
    ``-loss`` and ``-gradient``. Losses alone read each chunk once.

    Examples
    --------
    >>> import dask, dask.array, cusoftmax.dask
    >>> logits = dask.array.from_array([[2.0, 4.0, 2.0, 1.0]], chunks=2)
    >>> target = dask.array.from_array([1])
    >>> loss, dlogits = cusoftmax.dask.cross_entropy(logits, target, grad=True)
    >>> loss, dlogits = dask.compute(loss, dlogits)
    >>> loss.round(4), dlogits.round(4)
    (array([0.278]), array([[ 0.1025, -0.2427,  0.1025,  0.0377]]))
    """
    op = "cross_entropy"
    grad = plain_bool(op, "grad", grad)
    numbers = (ignore_index, label_smoothing, z_loss, softcap)
    return _loss(op, {"logits": logits, "target": target}, weight, axis, numbers, grad)


def cross_entropy_vjp(
    logits: da.Array,
    target: da.Array,
    dloss: da.Array,
    axis: int = -1,
    weight: da.Array | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
) -> da.Array:
    """Gradient with respect to the logits: ``dlogits_j = dloss * (softmax(x)_j - (j == t))``.

    As `cusoftmax.cross_entropy_vjp`, of any chunks.

    Parameters
    ----------
    logits, target
        As for `cross_entropy`.
    dloss : dask.array.Array
        Gradient with respect to the loss of each row: the shape of `logits` without `axis`, and any
        accepted dtype.
    axis, weight, ignore_index, label_smoothing, z_loss, softcap
        As for `cross_entropy`.

    Returns
    -------
    dask.array.Array
        The gradient, with the shape and the dtype of `logits`, float64 for integers.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As by `cross_entropy`.

    Examples
    --------
    >>> import dask.array, cusoftmax.dask
    >>> logits = dask.array.from_array([[2.0, 4.0, 2.0, 1.0]], chunks=2)
    >>> target, dloss = dask.array.from_array([1]), dask.array.from_array([2.0])
    >>> cusoftmax.dask.cross_entropy_vjp(logits, target, dloss).compute().round(4)
    array([[ 0.205 , -0.4854,  0.205 ,  0.0754]])
    """
    op = "cross_entropy_vjp"
    numbers = (ignore_index, label_smoothing, z_loss, softcap)
    inputs = {"logits": logits, "target": target, "dloss": dloss}
    return _loss(op, inputs, weight, axis, numbers)


# ------------------------------------------------------------------------------------------- checks


def _run(
    op: str,
    inputs: dict[str, Any],
    axis: Any,
    dtype: Any = None,
    options: tuple[tuple[str, Any], ...] = (),
    scale: Any = None,
    mask: Any = None,
    bias: Any = None,
) -> Any:
    """Return the results of a function that is no loss."""
    operation = find(op)
    takes = tuple(ELEMENT if operation.along_rows(i) else ROW for i in range(len(inputs)))
    more = {name: array for name, array in (("mask", mask), ("bias", bias)) if array is not None}
    accepted = dict.fromkeys((*inputs, *more), INPUTS) | {"mask": ("bool",)}
    dtypes = _dtypes(op, inputs | more, accepted)
    axis, length = _checked_shapes(op, inputs, takes, axis, more)
    if scale is not None and accepted_number(op, "scale", scale) != 1:
        options += (("scale", scale),)
    shape = next(iter(inputs.values())).shape
    if op == "topk_softmax":
        _, (k,) = selection_of(op, *dict(options).values())
        check_selection(op, k, shape, (axis,))
    elif op == "sample":
        draw_of(op, *dict(options).values())
        check_choice(op, shape, (axis,))
    of_rows = SELECTED if operation.selects_many else ROW
    gives = (ELEMENT,) * len(operation.outputs) + (of_rows,) * len(operation.row_outputs)
    of_elements = enumerate(dtypes[: len(operation.inputs)])
    counted = [d for i, d in of_elements if operation.affects_output_dtype(i)]
    wanted = output_dtype(counted)
    if dtype is not None:
        wanted = float_name(op, "dtype=", as_dtype(op, dtype))
        options += (("dtype", wanted),)
    first = len(operation.read)
    results = [operation.fixed_dtype(first + i) or wanted for i in range(len(gives))]
    batch = shape[:axis] + shape[axis + 1 :] if op == "sample" else ()
    inputs = inputs | {name: da.broadcast_to(array, shape) for name, array in more.items()}
    takes += (ELEMENT,) * len(more)
    task = Task(op, axis, length, takes, dtypes, gives, options, tuple(more), batch)
    return _built(task, inputs, results)


def _loss(
    op: str,
    inputs: dict[str, Any],
    weight: Any,
    axis: Any,
    numbers: tuple[Any, ...],
    grad: bool = False,
) -> Any:
    """Return the results of a loss, or of its derivative."""
    accepted = {"logits": INPUTS, "target": (*INDICES, *FLOATS), "dloss": INPUTS}
    if weight is not None:
        inputs, accepted = inputs | {"weight": weight}, accepted | {"weight": tuple(FLOATS)}
    dtypes = _dtypes(op, inputs, accepted)
    soft = dtypes[1] in FLOATS
    of = {"logits": ELEMENT, "target": ELEMENT if soft else ROW, "dloss": ROW, "weight": CLASS}
    takes = tuple(of[name] for name in inputs)
    axis, length = _checked_shapes(op, inputs, takes, axis)
    result = output_dtype(dtypes[:1])
    counted = [d for name, d in zip(inputs, dtypes, strict=True) if soft or name != "target"]
    Options.checked(op, compute_dtype(counted, result), *numbers)
    names = ("ignore_index", "label_smoothing", "z_loss", "softcap")
    options = tuple(zip(names, numbers, strict=True))
    gives: tuple[str, ...] = (ELEMENT,)
    if op == "cross_entropy":
        gives = (ROW, ELEMENT) if grad else (ROW,)
        options += (("grad", grad),)
    named = ("weight",) if weight is not None else ()
    task = Task(op, axis, length, takes, dtypes, gives, options, named)
    return _built(task, inputs, [result] * len(gives))


def _built(task: Task, inputs: dict[str, Any], dtypes: Sequence[str]) -> Any:
    """Return the arrays of results, of these dtypes."""
    first, metas = next(iter(inputs.values())), []
    for gives, dtype in zip(task.gives, dtypes, strict=True):
        kind, empty = as_dtype(task.op, dtype), (0,) * (first.ndim - (gives == ROW))
        metas.append(arrays.empty(empty, kind) if is_array(first._meta) else np.empty(empty, kind))
    made = build(task, list(inputs.values()), metas)
    return made if len(made) > 1 else made[0]


def _dtypes(
    caller: str, inputs: dict[str, Any], accepted: dict[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """Return the dtypes of arrays of Dask; refuse others, and blocks of several libraries."""
    libraries = {name: _library(caller, name, array) for name, array in inputs.items()}
    first, *others = libraries
    for name in others:
        if libraries[name] != libraries[first]:
            raise TypeError(
                f"{caller}: {name} has blocks of {libraries[name]}, and {first} of "
                f"{libraries[first]}; give blocks of one library: {name}.map_blocks(cupy.asarray) "
                f"moves them to the GPU"
            )
    return tuple(
        accepted_name(caller, f"{name} has dtype", array.dtype, accepted[name])
        for name, array in inputs.items()
    )


def _library(caller: str, name: str, array: Any) -> str:
    """Return the library of an array's blocks."""
    if not isinstance(array, da.Array):
        how = f"dask.array.from_array({name}) makes one"
        if is_array(array):
            how = f"pass it to cusoftmax.{caller}, or to {how}"
        raise TypeError(
            f"{caller}: {name} is a {full_name(type(array))}, and only arrays of Dask are "
            f"accepted; {how}"
        )
    if is_array(array._meta):
        return "CuPy"
    if isinstance(array._meta, np.ndarray) and not isinstance(array._meta, np.ma.MaskedArray):
        return "NumPy"
    raise TypeError(
        f"{caller}: {name} has blocks of {full_name(type(array._meta))}, and only those of NumPy "
        f"and CuPy are accepted; convert them by {name}.map_blocks"
    )


def _checked_shapes(
    caller: str,
    inputs: dict[str, Any],
    takes: tuple[str, ...],
    axis: Any,
    more: dict[str, Any] | None = None,
) -> tuple[int, int]:
    """Return the axis of the rows, and their length; refuse shapes that do not fit.

    `more` are arrays that broadcast to the shape of the first.
    """
    more = more or {}
    for name, array in (inputs | more).items():
        if any(isnan(size) for size in array.shape):
            raise ValueError(
                f"{caller}: {name} has chunks of unknown size; call {name}.compute_chunk_sizes()"
            )
    (first, model), *_ = inputs.items()
    if not model.ndim:
        raise ValueError(f"{caller}: {first} has no dimensions; give it at least one")
    (along,) = resolve_axes(caller, axis, model.ndim, several=False)
    shape = model.shape
    expected = {
        ELEMENT: shape,
        ROW: shape[:along] + shape[along + 1 :],
        CLASS: shape[along : along + 1],
    }
    for (name, array), kind in zip(inputs.items(), takes, strict=True):
        holds = "one value for each " + ("class" if kind == CLASS else "row")
        check_shape(caller, name, array.shape, first, shape, expected[kind], holds)
    for name, array in more.items():
        if not broadcasts(array.shape, shape):
            raise ValueError(
                f"{caller}: {name} has shape {array.shape}; give one that broadcasts to {shape}"
            )
    return along, int(shape[along])
