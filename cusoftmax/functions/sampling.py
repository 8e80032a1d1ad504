"""Softmax with Gumbel noise, and samples drawn with it.

The noise of an element depends only on the seed, the number of its row and its index in the row
(``cuda_kernels/numeric/gumbel.cuh``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cusoftmax.operations.options import COLD, COLDEST, round_keys
from cusoftmax.planning import checks
from cusoftmax.planning.checks import is_array
from cusoftmax.runtime import launch
from cusoftmax.runtime.launch import accepting

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from cusoftmax.functions._types import AnyArray, ArrayT


def gumbel_softmax(
    x: ArrayT,
    axis: int = -1,
    *,
    seed: int,
    temperature: float = 1.0,
    dtype: DTypeLike | None = None,
    out: AnyArray | None = None,
) -> ArrayT:
    """Softmax of logits with Gumbel noise, ``softmax((x + g) / temperature)``, in the same pass.

    A smooth approximation of a draw from ``softmax(x)``. The largest element of a row is at index i
    with probability ``softmax(x)_i`` at any temperature. The lower the temperature, the closer the
    row is to 1 at that index and 0 elsewhere.

    Parameters
    ----------
    x : array
        Logits; shapes, strides and dtypes as for `softmax`.
    axis : int
        The axis of the softmax.
    seed : int
        From 0 to 2**64 - 1. The same seed gives the same noise, so use another one for each call.
    temperature : float
        From 0 to 2**100. 0, or less than 2**-100, means the limit: 1 at the largest ``x + g``, or
        at the first of several equal ones, and 0 elsewhere.
    dtype, out
        As for `softmax`.

    Returns
    -------
    array
        The result, with the shape of `x` and the dtype that `dtype` says; `out` if it was given.

    Raises
    ------
    TypeError
        As `softmax`; also if `seed` or `axis` is not an int, or `temperature` is not a number.
    ValueError
        As `softmax`; also if `seed` or `temperature` is out of range.

    See Also
    --------
    sample : Only the index of the largest element of each row.
    softmax_vjp : The gradient of the result ``y`` with respect to `x` is
        ``softmax_vjp(y, dy, axis, scale=1 / temperature)``.

    Notes
    -----
    The noise of an element depends on `seed`, the number of its row (in C order over the other
    axes) and its index along `axis`; not on the number of rows, the strides, the dtype of `x` or
    the GPU. The only exceptions are float64 arithmetic, whose noise has more digits, and 16-bit
    results, whose noise may be off by 2**-20 of ``1 + abs(g)``. Which arithmetic is used depends on
    the dtypes of `x` and of the result; at temperature 0, only on that of `x`.

    At temperature 1 the largest element is at the index that ``sample(x, axis, seed=seed)`` draws,
    unless several elements round to the largest one in the result's dtype (16-bit results: or next
    to it), or the result's dtype makes the arithmetic float64 and that of `x` does not.

    A logit of -inf has probability 0. A row is NaN if it has a NaN or a +inf, or only -inf, or if
    an ``(x + g) / temperature`` overflows.

    References
    ----------
    E. Jang, S. Gu and B. Poole, "Categorical reparameterization with Gumbel-softmax", ICLR 2017;
    C. J. Maddison, A. Mnih and Y. W. Teh, "The concrete distribution", ICLR 2017.
    docs/derivation.md: Noise, and draws.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> x = cupy.asarray([2.0, 4.0, 2.0, 1.0])
    >>> cusoftmax.gumbel_softmax(x, seed=1, temperature=0)
    array([0., 1., 0., 0.])
    """
    key = _seed("gumbel_softmax", seed)
    t = checks.accepted_number("gumbel_softmax", "temperature", temperature)
    if t >= COLDEST:
        op = "gumbel_softmax" if t >= COLD else "gumbel_softmax_cold"
        return launch.run(op, (x,), axis, dtype, out, options=(*round_keys(key), 1.0 / t))
    return _coldest(x, axis, dtype, out, key)  # type: ignore[no-any-return]


@accepting("x", results=("out",))
def _coldest(x: Any, axis: Any, dtype: Any, out: Any, key: int) -> Any:
    """The limit of `gumbel_softmax`: 1 at the largest element of each row, 0 elsewhere."""
    if is_array(x) and not x.size:
        return launch.run("gumbel_softmax", (x,), axis, dtype, out, options=(*round_keys(key), 1.0))
    steps: list[launch.Step] = []
    numbers = (1, *round_keys(key), 1.0, 1.0)
    largest = launch.run("gumbel_argmax", (x,), axis, None, None, options=numbers, steps=steps)
    y = launch.run("one_hot", (x, largest), axis, dtype, out, steps=steps)
    launch.run_all(steps)
    return y


def sample(
    x: ArrayT,
    axis: int = -1,
    *,
    seed: int,
    temperature: float = 1.0,
    out: AnyArray | None = None,
) -> ArrayT:
    """One draw from ``softmax(x / temperature)`` for each row, in one pass over the logits.

    It is the index of the largest ``x / temperature + g``, with Gumbel noise ``g``. No probability
    is computed, and rows of any length are read once.

    Parameters
    ----------
    x : array
        Logits; shapes, strides and dtypes as for `softmax`.
    axis : int
        The axis of the categories; it has at least one element.
    seed : int
        From 0 to 2**64 - 1. The same seed gives the same draws, so use another one for each call.
    temperature : float
        From 0 to 2**100. 0, or less than 2**-100, means the limit, which is deterministic: the
        index of the largest logit, or the first of several equal ones, as in `numpy.argmax`.
    out : array, optional
        Where to write the result: the shape of the result, int64, any strides.

    Returns
    -------
    array of int64
        An index for each row, with the shape of `x` without `axis`; `out` if it was given.

    Raises
    ------
    TypeError
        If an array is none that a GPU reads or has another dtype than those accepted, or another
        argument is of the wrong kind.
    ValueError
        If an array is misaligned; if `seed` or `temperature` is out of range; if `axis` is out of
        range (`numpy.exceptions.AxisError`) or has no elements; if `out` has the wrong shape or
        device, has elements that share memory, or overlaps `x`.

    Notes
    -----
    The draw of a row depends on its logits, `seed` and the number of the row (in C order over the
    other axes); not on the number of rows, the strides, the GPU, or which float of 16 or 32 bits
    the dtype of `x` is. A logit of -inf is never drawn.

    A row that has a NaN or a +inf, or only -inf, has no distribution, and gives -1. At temperature
    0 such rows give what `numpy.argmax` does: the index of the first NaN, else of the first +inf,
    else 0.

    The noise of an element is made of 32 random bits (53 in float64 arithmetic), so probabilities
    are met to about 2**-32.

    References
    ----------
    C. J. Maddison, D. Tarlow and T. Minka, "A* sampling", NIPS 2014.
    docs/derivation.md: Noise, and draws.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> x = cupy.asarray([[2.0, 4.0, 2.0, 1.0]] * 5)
    >>> cusoftmax.sample(x, seed=7)
    array([3, 2, 0, 1, 1])
    """
    op, options = draw_of("sample", seed, temperature)
    return launch.run(op, (x,), axis, None, out, options=options)


def draw_of(caller: str, seed: Any, temperature: Any) -> tuple[str, tuple[float, ...]]:
    """Return the operation that draws, and its options."""
    key = _seed(caller, seed)
    t = checks.accepted_number(caller, "temperature", temperature)
    if t < COLDEST:
        return "sample_argmax", (1, *round_keys(0), 1.0, 0.0)
    return "sample", (1, *round_keys(key), 1.0 / max(t, 1.0), min(t, 1.0))


def _seed(op: str, seed: Any) -> int:
    """Return a seed as a plain int."""
    number = checks.plain_count(op, "seed", seed)
    if not 0 <= number < 1 << 64:
        raise ValueError(
            f"{op}: seed={checks.described(number)} is not accepted; give a number from 0 to "
            f"2**64 - 1"
        )
    return number
