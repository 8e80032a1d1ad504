"""Softmax with Gumbel noise, and draws from it: the public functions.

The noise of an element follows from the seed, the row's number and the element's place in the row
(``cuda_kernels/numeric/gumbel.cuh``), and from nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cusoftmax.planning import checks
from cusoftmax.runtime import launch

if TYPE_CHECKING:
    import cupy
    from numpy.typing import DTypeLike

# Below, 1 / T times a logit may overflow, and what is not the largest has no part that floats hold.
_COLDEST = 2.0**-100


def gumbel_softmax(
    x: cupy.ndarray,
    axis: int = -1,
    *,
    seed: int,
    temperature: float = 1.0,
    dtype: DTypeLike | None = None,
    out: cupy.ndarray | None = None,
) -> cupy.ndarray:
    """Softmax of logits with Gumbel noise, ``softmax((x + g) / temperature)``, in the same pass.

    A smooth stand-in for a draw from ``softmax(x)``: the largest element of a row is at `i` with
    the probability ``softmax(x)_i``, whatever the temperature, and the lower that is the nearer the
    row is to 1 there and 0 elsewhere (Jang, Gu, Poole 2017; Maddison, Mnih, Teh 2017).

    Parameters
    ----------
    x : cupy.ndarray
        Logits, of any shape and any strides. float16, bfloat16, float32 or float64; integers and
        bool, which compute in float64.
    axis : int
        The axis of the softmax.
    seed : int
        From 0 to 2**64 - 1. The same seed gives the same noise; take another for each call.
    temperature : float
        From 0 to 2**100. 0, and what is below 2**-100, stands for the limit: 1 at the largest
        ``x + g``, the first of equal ones, and 0 elsewhere.
    dtype : dtype, optional
        Dtype of the result, any of the floats. By default that of `x`, or of `out`; float64 for
        integers and bool.
    out : cupy.ndarray, optional
        Where to write the result: same shape as `x`, a float dtype, any strides. It may be `x`
        itself.

    Returns
    -------
    cupy.ndarray
        The result, of the shape of `x`; `out` if it was given.

    Raises
    ------
    TypeError
        As `softmax`; if `seed` is not an int, `temperature` not a number, `axis` not an int.
    ValueError
        As `softmax`; if `seed` or `temperature` is out of its range.

    See Also
    --------
    sample : the index of the largest element, without the row itself.
    softmax_vjp : of the result ``y`` gives the gradient with respect to `x`, as
        ``softmax_vjp(y, dy, axis, scale=1 / temperature)``.

    Notes
    -----
    The noise of an element follows from `seed`, the number of its row (in C order over the other
    axes) and its index along `axis`: not from the number of rows, the strides, the dtype of `x` or
    the GPU. Arithmetic in float64 has noise of more digits, and so other noise; with a temperature
    of 0 it is that of the dtype of `x`, whatever the result's.

    For temperature 1 the largest element is where ``sample(x, axis, seed=seed)`` says, as far as
    the result's dtype can tell elements apart, unless that has the arithmetic be in float64.

    -inf has the probability 0. A NaN, a +inf, or nothing but -inf makes a row NaN, and so does an
    ``(x + g) / temperature`` beyond the largest number.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> x = cupy.asarray([2.0, 4.0, 2.0, 1.0])
    >>> cusoftmax.gumbel_softmax(x, seed=1, temperature=0)
    array([0., 1., 0., 0.])
    """
    checks.check_one_axis("gumbel_softmax", axis)
    key = _seed("gumbel_softmax", seed)
    t = checks.plain_number("gumbel_softmax", "temperature", temperature)
    if t >= _COLDEST or not getattr(x, "size", 1):
        return launch.run("gumbel_softmax", (x,), axis, dtype, out, options=(key, 1.0 / (t or 1.0)))
    launch.check("gumbel_softmax", (x,), axis, dtype, out)  # before the first of two launches
    largest = launch.run("gumbel_argmax", (x,), axis, None, None, options=(1, key, 1.0, 1.0))
    return launch.run("one_hot", (x, largest), axis, dtype, out)


def sample(
    x: cupy.ndarray,
    axis: int = -1,
    *,
    seed: int,
    temperature: float = 1.0,
    out: cupy.ndarray | None = None,
) -> cupy.ndarray:
    """One draw from ``softmax(x / temperature)`` for each row, in one pass over the logits.

    The index of the largest ``x / temperature + g``, with ``g`` Gumbel noise: no probability is
    formed, and rows of any length are read once.

    Parameters
    ----------
    x : cupy.ndarray
        Logits, of any shape and any strides. float16, bfloat16, float32 or float64; integers and
        bool, which compute in float64.
    axis : int
        The axis of the categories, of at least one.
    seed : int
        From 0 to 2**64 - 1. The same seed gives the same draws; take another for each call.
    temperature : float
        From 0 to 2**100. 0, and what is below 2**-100, stands for the limit, and is deterministic:
        the index of the largest logit, the first of equal ones, as of `numpy.argmax`.
    out : cupy.ndarray, optional
        Where to write the result: an int64 array of its shape, any strides.

    Returns
    -------
    cupy.ndarray of int64
        An index for each row, of the shape of `x` without `axis`; `out` if it was given.

    Raises
    ------
    TypeError
        If an array is not a CuPy array, a dtype is not accepted, `seed` or `axis` is not an int, or
        `temperature` not a number.
    ValueError
        If `seed` or `temperature` is out of its range, `axis` is (`numpy.exceptions.AxisError`) or
        has no elements; if `out` has another shape or device, has elements that share memory, or
        overlaps `x`.

    Notes
    -----
    The draw of a row follows from its logits, `seed` and the number of the row (in C order over the
    other axes): not from the number of rows, the strides or the GPU, nor the dtype of `x`, if it is
    a float of 16 or 32 bits. An index that is -inf is never drawn.

    A row with a NaN or a +inf, or with nothing but -inf, has no distribution: -1. With temperature
    0 such rows have the index that `numpy.argmax` gives them: of the first NaN, the first +inf, 0.

    The noise is made of 32 random bits for each element (53 in float64 arithmetic), so that what is
    less probable than 2**-32 or so is drawn as often only to that resolution.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> x = cupy.asarray([[2.0, 4.0, 2.0, 1.0]] * 5)
    >>> cusoftmax.sample(x, seed=7)
    array([1, 1, 1, 1, 2])
    """
    checks.check_one_axis("sample", axis)
    key = _seed("sample", seed)
    t = checks.plain_number("sample", "temperature", temperature)
    if t < _COLDEST:
        return launch.run("sample_argmax", (x,), axis, None, out, options=(1, 0, 1.0, 0.0))
    factors = 1.0 / max(t, 1.0), min(t, 1.0)
    return launch.run("sample", (x,), axis, None, out, options=(1, key, *factors))


def _seed(op: str, seed: Any) -> int:
    """Return a seed as the kernels take it: 64 bits, as a signed number."""
    given = checks.plain_count(op, "seed", seed)
    if not 0 <= given < 1 << 64:
        raise ValueError(f"{op}: seed={given} is not accepted; give a number from 0 to 2**64 - 1")
    return given - (given >> 63 << 64)
