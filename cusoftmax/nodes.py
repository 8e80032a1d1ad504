"""Rows in pieces: what is known of a piece, how pieces combine, and the results of a piece.

A row's sums are a fixed tree over chunks of fixed size, whoever computes them. So a row may lie on
several devices, or come one piece after the other, and its results have the bits that they have
on one device:

1. `partial` reads a piece of each row and gives its `Nodes`, a few words a row;
2. `combine` folds the nodes of all pieces to one node a row;
3. `apply` reads a piece again and writes its results.

A piece begins and ends at multiples of the chunk, a power of two of at most 1024 elements:
multiples of 1024 are always accepted, and errors name the nearest boundaries. Rows of at most a
chunk are not divided: one caller has all of a row, and the others none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from cusoftmax.operations.lookup import find
from cusoftmax.operations.options import piece_of
from cusoftmax.planning.checks import (
    Array,
    NotCuPy,
    check_choice,
    check_device,
    check_selection,
    described,
    full_name,
    is_array,
    plain_choice,
    plain_count,
    wrong_kind,
)

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from cusoftmax.functions._types import AnyArray
    from cusoftmax.planning.pieces import Piece

__all__ = ["OPERATIONS", "Nodes", "apply", "combine", "partial"]

OPERATIONS = (
    "softmax",
    "log_softmax",
    "logsumexp",
    "softmax_vjp",
    "softmax_jvp",
    "softmax_hvp",
    "softmax_vjp_vjp",
    "log_softmax_vjp",
    "log_softmax_jvp",
    "logsumexp_vjp",
    "softmax_value_and_vjp",
    "softmax_value_and_jvp",
    "log_softmax_value_and_vjp",
    "log_softmax_value_and_jvp",
    "cross_entropy",
    "cross_entropy_vjp",
    "topk_softmax",
    "sample",
)
_ROWS = 1 << 62  # more than there are
_LOSSES = ("cross_entropy", "cross_entropy_vjp")
_OF_LOSSES = ("ignore_index", "label_smoothing", "z_loss", "softcap", "grad")
_OF_RESULTS = ("softmax_vjp", "softmax_jvp", "log_softmax_vjp", "log_softmax_jvp")
_OF_LOGITS = tuple(op for op in OPERATIONS if "_value_and_" in op)
_OF_LOGITS += ("softmax", "log_softmax", "logsumexp", "logsumexp_vjp")
# The functions that have options, and which of those of `partial` these are.
_OPTIONS = {
    **dict.fromkeys(_LOSSES, _OF_LOSSES),
    "topk_softmax": ("k", "normalise"),
    "sample": ("seed", "temperature", "first_row"),
    **dict.fromkeys((*_OF_LOGITS, *_OF_RESULTS), ("scale", "causal")),
}
# And which of them have arrays beside their inputs.
_ARRAYS = {
    **dict.fromkeys(_LOSSES, ("weight",)),
    **dict.fromkeys(_OF_LOGITS, ("bias", "mask")),
    **dict.fromkeys(_OF_RESULTS, ("mask",)),
}


@dataclass(frozen=True, eq=False)
class Nodes:
    """What is known of a piece of each row, or of several neighbouring pieces: a few words.

    `partial` and `combine` make them.

    Parameters
    ----------
    array : array
        A node for each of the subtrees that the piece consists of, and each row. Its shape is
        ``(subtrees, *batch, words)``, where `batch` are the dimensions of `x` without the axis; it
        is contiguous, and float32 or float64, as the arithmetic is. What the words mean is not
        fixed. Whoever sends nodes sends this array.
    op : str
        The function that the nodes are for, one of `OPERATIONS`.
    kernel : str
        The kernels' variant of it.
    dtypes : tuple of str
        The dtypes of the inputs and of the results.
    axis : int
        The axis of the rows.
    offset, size, length : int
        The first element of the piece, its number of elements, and the length of whole rows.
    options : tuple
        The options of the function, as pairs of name and value.

    Examples
    --------
    >>> import cupy
    >>> from cusoftmax import nodes
    >>> made = nodes.partial(cupy.zeros((2, 1024)), "softmax", offset=1024, length=4096)
    >>> made.offset, made.size, len(made), made.dtypes
    (1024, 1024, 1, ('float64', 'float64'))
    """

    array: Any
    op: str
    kernel: str
    dtypes: tuple[str, ...]
    axis: int
    offset: int
    size: int
    length: int
    options: tuple[tuple[str, Any], ...] = ()

    def __len__(self) -> int:
        """Return the number of subtrees."""
        return len(self.array)

    def shape_of(self, offset: int, size: int) -> tuple[int, ...]:
        """Return the shape of the array that the nodes of another piece of the same rows have.

        For memory to receive them in.

        Parameters
        ----------
        offset, size : int
            The other piece's first element, and its number of elements.

        Returns
        -------
        tuple of int
            The shape ``(subtrees, *batch, words)``.

        Raises
        ------
        TypeError
            If an argument is no int.
        ValueError
            If the piece has no such boundaries.
        """
        size = plain_count("shape_of", "size", size)
        piece = _piece(self, "shape_of", offset, size)
        return (piece.subtrees, *self.array.shape[1:])

    def of(self, array: AnyArray, offset: int, size: int) -> Nodes:
        """Return the nodes of another piece of the same rows, whose array was received.

        Parameters
        ----------
        array : array
            The other's `array`, of the shape that `shape_of` gives and of the same dtype.
        offset, size : int
            The other piece's first element, and its number of elements.

        Returns
        -------
        Nodes
            Those of the other piece.

        Raises
        ------
        TypeError, ValueError
            If `array` has another dtype or shape, or the piece has no such boundaries.
        """
        shape = self.shape_of(offset, size)
        given: Any = array
        if tuple(given.shape) != shape:
            raise ValueError(
                f"of: array has shape {tuple(given.shape)}; the nodes of {size} elements at offset "
                f"{offset} have shape {shape}"
            )
        return replace(self, array=given, offset=int(offset), size=int(size))


class _Call(NamedTuple):
    """An operation of pieces, its inputs, and what is passed with them."""

    op: str
    inputs: tuple[Array, ...]
    numbers: tuple[float, ...]
    dtype: Any


def partial(
    x: AnyArray,
    op: str,
    *others: AnyArray,
    offset: int,
    length: int,
    axis: int = -1,
    dtype: DTypeLike | None = None,
    weight: AnyArray | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    grad: bool = False,
    k: int | None = None,
    normalise: Literal["row", "topk"] = "row",
    seed: int | None = None,
    temperature: float = 1.0,
    first_row: int = 0,
    scale: float | None = None,
    mask: AnyArray | None = None,
    bias: AnyArray | None = None,
    causal: bool = False,
) -> Nodes:
    """Fold a piece of each row to its nodes, a few words a row.

    For `cusoftmax.softmax`, a node is ``m = max_j x_j`` and ``sum_j exp(x_j - m)`` over the piece's
    elements. For `cusoftmax.topk_softmax` and `cusoftmax.sample` it has the piece's best elements
    too, with their indices in the row.

    Parameters
    ----------
    x : array
        The piece: elements `offset` to ``offset + x.shape[axis]`` of each row. Any number of rows,
        whose elements are neighbours in memory; the dtypes that the function `op` accepts. It may
        be empty.
    op : str
        The function whose result is wanted, one of `OPERATIONS`.
    *others : array
        The other inputs of that function, in its order and of its dtypes: pieces of the shape of
        `x` where it takes a value for each element, as ``dy`` of softmax_vjp; whole where it takes
        one value for each row, as the integer ``target`` of cross_entropy, which counts from the
        row's first element.
    offset : int
        The index in its row of the piece's first element: a multiple of the chunk.
    length : int
        The length of whole rows. The piece ends at a multiple of the chunk, or with the row.
    axis : int
        The axis of the rows.
    dtype : dtype, optional
        Dtype of the results, by default that of the function. Not of losses, nor of samples.
    weight, ignore_index, label_smoothing, z_loss, softcap, grad
        As in `cross_entropy` without a reduction. `weight` has a value for each class of the whole
        row. For other functions they are not accepted.
    k, normalise
        As in `topk_softmax`, which `k` is required for: from 1 to 64, and at most `length`. A piece
        may have fewer elements.
    seed, temperature
        As in `sample`, which `seed` is required for. The noise of an element follows from `seed`,
        the number of its row and its index in the whole row.
    first_row : int
        For sample: the number of the first row of `x`, where the rows before it are elsewhere. The
        others follow in C order.
    scale, mask, bias, causal
        As in the function `op`, where it has them. `mask` and `bias` are pieces too: of the shape
        of `x`, or one that broadcasts to it.

    Returns
    -------
    Nodes
        To be passed to `combine`, here or elsewhere.

    Raises
    ------
    TypeError
        If an array is none that a GPU reads or has a dtype that is not accepted, or another
        argument is of the wrong kind or not one of the function `op`.
    ValueError
        If `op` is not known; if the piece begins or ends within a chunk, or is not within the row,
        or is a part of a row of at most one chunk; if the elements of a row are not neighbours in
        memory; if arrays differ in shape, or an option is out of range; if `axis` is out of range
        (`numpy.exceptions.AxisError`).

    Notes
    -----
    A piece is read once. It is the fewer nodes the larger the power of two of chunks is that
    divides `offset`: at most two for each halving of the row, and a single one for a whole row.

    Examples
    --------
    >>> import cupy
    >>> from cusoftmax import nodes
    >>> x = cupy.zeros((2, 4096))
    >>> halves = [nodes.partial(x[:, i : i + 2048], "softmax", offset=i, length=4096)
    ...           for i in (0, 2048)]
    >>> whole = nodes.combine(halves)
    >>> nodes.apply(x[:, 2048:], whole, offset=2048)[:, :2] * 4096
    array([[1., 1.],
           [1., 1.]])
    >>> x[1, 3000] = 1.0
    >>> halves = [nodes.partial(x[:, i : i + 2048], "topk_softmax", offset=i, length=4096, k=2)
    ...           for i in (0, 2048)]
    >>> values, indices = nodes.apply(x[:, :0], nodes.combine(halves), offset=0)
    >>> indices
    array([[   0,    1],
           [3000,    0]])
    """
    caller = "partial"
    plain_choice(caller, "op", op, OPERATIONS)
    given = {
        "ignore_index": (ignore_index, -100),
        "label_smoothing": (label_smoothing, 0.0),
        "z_loss": (z_loss, 0.0),
        "softcap": (softcap, None),
        "grad": (grad, False),
        "k": (k, None),
        "normalise": (normalise, "row"),
        "seed": (seed, None),
        "temperature": (temperature, 1.0),
        "first_row": (first_row, 0),
        "scale": (scale, None),
        "causal": (causal, False),
    }
    more = _more(weight=weight, bias=bias, mask=mask)
    names = _OPTIONS.get(op, ())
    wrong = [n for n, (value, default) in given.items() if n not in names and value != default]
    wrong += [n for n in more if n not in _ARRAYS.get(op, ())]
    if wrong:
        raise TypeError(f"{caller}: {op} has no {wrong[0]}=; leave it out")
    if op == "cross_entropy_vjp" and grad is not False:
        raise TypeError(f"{caller}: cross_entropy_vjp has no grad=; it gives the gradient")
    if dtype is not None and (op in _LOSSES or op == "sample"):
        kind = "are int64" if op == "sample" else "have that of the logits"
        raise TypeError(f"{caller}: {op} has no dtype=; its results {kind}")
    if "causal" in names:
        names = tuple(n for n in names if given[n][0] != given[n][1])
    options = tuple((name, given[name][0]) for name in names)

    def run(x: Any, others: tuple[Any, ...], more: dict[str, Any]) -> Nodes:
        from cusoftmax.runtime import pieces

        call = _resolved(caller, op, x, others, axis, dtype, more, offset, length, options)
        array, piece, dtypes = pieces.partial(
            call.op, call.inputs, axis, call.dtype, offset, length, call.numbers
        )
        place = (int(axis), piece.first, piece.size, piece.length)
        return Nodes(array, op, call.op, dtypes, *place, options)

    try:
        return run(x, others, more)
    except NotCuPy:
        pass
    from cusoftmax.runtime.foreign import Loan

    loan = Loan(caller)
    made = run(*_lent(loan, op, x, others, more))
    loan.returned(())  # the streams of the arrays' libraries wait
    return made


def combine(nodes: Sequence[Nodes]) -> Nodes:
    """Fold the nodes of neighbouring pieces to those of their union.

    Of two pieces of `cusoftmax.softmax` with maxima a and b it has ``m = max(a, b)`` and the sum
    ``s_a exp(a - m) + s_b exp(b - m)``. Nodes of all pieces of the rows become a single one for
    each row. Any order of folding gives the same bits: all at once, in turn, or as a tree.

    Parameters
    ----------
    nodes : sequence of Nodes
        Those of neighbouring pieces of the same rows, in any order. Pieces without elements may be
        among them.

    Returns
    -------
    Nodes
        Those of the union.

    Raises
    ------
    TypeError
        If an entry is no `Nodes`, or its array none that a GPU reads.
    ValueError
        If there is none; if they are of different functions, options, dtypes or rows; if pieces
        overlap, or elements between them are missing.

    Examples
    --------
    >>> import cupy
    >>> from cusoftmax import nodes
    >>> x = cupy.zeros((1, 3072))
    >>> pieces = [nodes.partial(x[:, i : i + 1024], "logsumexp", offset=i, length=3072)
    ...           for i in (0, 1024, 2048)]
    >>> whole = nodes.combine(pieces)
    >>> len(whole), whole.size
    (1, 3072)
    >>> nodes.apply(x[:, :0], whole, offset=0).round(4)
    array([8.0301])
    """
    caller = "combine"
    if not isinstance(nodes, Sequence) or not all(isinstance(each, Nodes) for each in nodes):
        given = nodes if not isinstance(nodes, Sequence) else [full_name(type(n)) for n in nodes]
        raise wrong_kind(caller, "nodes", given, "a list of Nodes, which partial returns")
    if not nodes:
        raise ValueError(f"{caller}: there are no nodes; give those of one piece at least")
    first = nodes[0]
    for each in nodes[1:]:
        _check_alike(caller, first, each)
    some = sorted((each for each in nodes if each.size), key=lambda each: each.offset)
    if len(some) < 2:
        return some[0] if some else first
    for before, after in pairwise(some):
        end, start = before.offset + before.size, after.offset
        if end != start:
            wrong = f"{end} to {start} of the rows are missing"
            if end > start:
                wrong = f"{start} to {end} of the rows are in two pieces"
            raise ValueError(f"{caller}: elements {wrong}; give pieces that join")
    from cusoftmax.runtime import pieces
    from cusoftmax.runtime.foreign import Loan

    loan = Loan(caller)
    arrays = [loan.array(f"nodes[{i}].array", each.array) for i, each in enumerate(some)]
    for i, (each, array) in enumerate(zip(some, arrays, strict=True)):
        _check_array(caller, each, array)
        check_device(caller, f"nodes[{i}].array", array, "nodes[0].array", arrays[0])
    places = [_piece(each, caller, each.offset, each.size) for each in some]
    joined = list(zip(arrays, places, strict=True))
    array, whole = pieces.combine(first.kernel, first.dtypes, joined, selected(first))
    loan.returned(())
    return replace(first, array=array, offset=whole.first, size=whole.size)


def apply(
    x: AnyArray,
    nodes: Nodes,
    *others: AnyArray,
    offset: int,
    weight: AnyArray | None = None,
    mask: AnyArray | None = None,
    bias: AnyArray | None = None,
    out: AnyArray | tuple[AnyArray, ...] | None = None,
) -> Any:
    """Write the results of a piece, given the node of each whole row.

    For `cusoftmax.softmax`, ``y_i = exp(x_i - m) / sum_j exp(x_j - m)``, where `nodes` has m and
    the sum.

    Parameters
    ----------
    x : array
        The piece: elements `offset` to ``offset + x.shape[axis]`` of each row, of the dtype that
        `partial` was given. It may be empty, and need not be a piece that was given there. Where
        all results are values of rows, its elements are not read.
    nodes : Nodes
        What `combine` returned for all pieces of these rows.
    *others : array
        As given to `partial`, of the same dtypes: pieces of the shape of `x`, or values of rows.
    offset : int
        The index in its row of the piece's first element.
    weight, mask, bias : array, optional
        As given to `partial`, `mask` and `bias` those of this piece.
    out : array or tuple of arrays, optional
        Where to write the results, of their shapes and dtypes. It may be `x` itself.

    Returns
    -------
    array or tuple of arrays
        What the function returns for these elements, of its dtypes: results of the shape of `x`.
        Values of rows, such as a logsumexp or a loss, have its shape without the axis and are the
        same for every piece. So are values and indices of topk_softmax, with `k` along the axis.
        cross_entropy with ``grad=True`` returns loss and gradient.

    Raises
    ------
    TypeError
        If `nodes` is no `Nodes`; if an array is none that a GPU reads or has another dtype than
        was given to `partial`.
    ValueError
        If `nodes` are not those of whole rows, or of other rows; if the piece begins or ends within
        a chunk or is not within the row; if arrays differ in shape, or `out` does not fit.

    Examples
    --------
    >>> import cupy
    >>> from cusoftmax import nodes
    >>> logits, target = cupy.zeros((1, 2048)), cupy.asarray([1500])
    >>> made = nodes.partial(logits, "cross_entropy", target, offset=0, length=2048, grad=True)
    >>> loss, gradient = nodes.apply(logits[:, 1024:], made, target, offset=1024)
    >>> loss.round(4), (gradient[0, 475:478] * 2048).round(4)
    (array([7.6246]), array([ 1.000e+00, -2.047e+03,  1.000e+00]))
    """
    caller = "apply"
    if not isinstance(nodes, Nodes):
        raise wrong_kind(caller, "nodes", nodes, "the Nodes that combine returns")
    if (nodes.offset, nodes.size) != (0, nodes.length):
        end = nodes.offset + nodes.size
        raise ValueError(
            f"{caller}: nodes are those of elements {nodes.offset} to {end} of rows of "
            f"{nodes.length}; combine those of all pieces first"
        )
    gives_loss = nodes.op == "cross_entropy" and bool(dict(nodes.options)["grad"])
    given = _more(weight=weight, bias=bias, mask=mask)

    def run(x: Any, others: tuple[Any, ...], more: dict[str, Any], node: Any, out: Any) -> Any:
        from cusoftmax.runtime import pieces

        if not is_array(node):
            raise NotCuPy(caller)
        _check_array(caller, nodes, node)
        place = (nodes.axis, None, more, offset, nodes.length, nodes.options)
        call = _resolved(caller, nodes.op, x, others, *place)
        if find(call.op).name != find(nodes.kernel).name:
            raise ValueError(
                f"{caller}: the nodes are those of {nodes.kernel}, and this is {call.op}; give "
                f"weight, mask and bias where they were given to partial, and nowhere else"
            )
        if gives_loss and isinstance(out, tuple):
            out = out[::-1]
        results = pieces.apply(
            *(call.op, call.inputs, nodes.axis, nodes.dtypes, out, offset, nodes.length),
            *(node, call.numbers),
        )
        return results[::-1] if gives_loss else results

    try:
        return run(x, others, given, nodes.array, out)
    except NotCuPy:
        pass
    from cusoftmax.runtime.foreign import Loan

    loan = Loan(caller)
    x, others, given = _lent(loan, nodes.op, x, others, given)
    node = loan.array("nodes.array", nodes.array)
    if isinstance(out, tuple):
        out = tuple(loan.result(f"out[{i}]", each) for i, each in enumerate(out))
    elif out is not None:
        out = loan.result("out", out)
    return loan.returned(run(x, others, given, node, out))


def _more(**arrays: Any) -> dict[str, Any]:
    """Return the arrays beside a function's inputs that are given."""
    return {name: array for name, array in arrays.items() if array is not None}


def _resolved(
    caller: str,
    op: str,
    x: Any,
    others: tuple[Any, ...],
    axis: Any,
    dtype: Any,
    more: dict[str, Any],
    offset: Any,
    length: Any,
    options: tuple[tuple[str, Any], ...],
) -> _Call:
    """Return the operation of pieces that a function's arguments name, and what it takes."""
    given = (x, *others, *more.values())
    if op not in _LOSSES:
        name: str = op
        numbers: tuple[float, ...] = ()
        if op in ("topk_softmax", "sample"):
            name, numbers = _of_selection(caller, op, length, dict(options))
        operation = find(piece_of(name, caller))
        _check_count(caller, op, operation.read, 1 + len(others))
        if not all(map(is_array, given)):
            raise NotCuPy(caller)
        inputs = (x, *others)
        if op in _ARRAYS and (more or options):
            from cusoftmax.functions._logits import variant

            chosen = {"scale": None, "causal": False, "bias": None, "mask": None} | dict(options)
            name, added, numbers = variant(
                caller, op, operation.inputs[0], x, axis, **(chosen | more)
            )
            count = len(operation.inputs)
            inputs = (*inputs[:count], *added, *inputs[count:])
        return _Call(piece_of(name, caller), inputs, numbers, dtype)
    from cusoftmax.functions import _losses

    names = ("logits", "target", *(("dloss",) if op == "cross_entropy_vjp" else ()))
    _check_count(caller, op, names, 1 + len(others))
    if not all(map(is_array, given)):
        raise NotCuPy(caller)
    target, upstream = others[0], others[1:]
    place = (axis, more.get("weight"), offset, length)
    return _Call(*_losses.of_piece(caller, op, x, target, upstream, *place, options))


def _of_selection(
    caller: str, op: str, length: Any, options: dict[str, Any]
) -> tuple[str, tuple[float, ...]]:
    """Return the operation that selects elements of rows of a length, and its numbers."""
    from cusoftmax.functions.sampling import draw_of
    from cusoftmax.functions.selection import selection_of

    shape = (plain_count(caller, "length", length),)
    if op == "sample":
        check_choice(caller, shape, (0,))
        first_row = plain_count(caller, "first_row", options.pop("first_row"))
        if not 0 <= first_row < _ROWS:
            raise ValueError(
                f"{caller}: first_row={described(first_row)} is no number of a row; give one from "
                f"0 to 2**62 - 1"
            )
        name, numbers = draw_of(caller, **options)
        return name, (*numbers, first_row)
    name, numbers = selection_of(caller, **options)
    check_selection(caller, *numbers, shape, (0,))
    return name, numbers


def selected(nodes: Nodes) -> int:
    """Return how many elements of each row nodes have; 0 for functions that select none."""
    return int(dict(nodes.options).get("k", nodes.op == "sample"))


def _check_count(caller: str, op: str, names: tuple[str, ...], count: int) -> None:
    if count != len(names):
        raise TypeError(
            f"{caller}: {count} array{'s' * (count > 1)} for {op}, which takes {', '.join(names)}"
        )


def _lent(
    loan: Any, op: str, x: Any, others: tuple[Any, ...], more: dict[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    names = find(piece_of(op)).read
    if op in _LOSSES:
        names = ("logits", "target", "dloss")
    first = loan.array(names[0], x)
    rest = tuple(loan.array(n, each) for n, each in zip(names[1:], others, strict=False))
    return first, rest, {name: loan.array(name, array) for name, array in more.items()}


def _piece(nodes: Nodes, caller: str, offset: Any, size: int) -> Piece:
    from cusoftmax.planning.pieces import checked_piece

    return checked_piece(nodes.kernel, nodes.dtypes, offset, size, nodes.length, caller)


def _check_alike(caller: str, first: Nodes, other: Nodes) -> None:
    """Refuse nodes of other rows than the first."""
    for field in fields(Nodes):
        if field.name in ("array", "offset", "size"):
            continue
        a, b = getattr(first, field.name), getattr(other, field.name)
        if a != b:
            raise ValueError(
                f"{caller}: nodes of {field.name}={described(a)} and of {described(b)}; give those "
                f"of pieces of the same rows"
            )
    if first.array.shape[1:] != other.array.shape[1:]:
        raise ValueError(
            f"{caller}: nodes of rows in arrays of {first.array.shape[1:-1]} and of "
            f"{other.array.shape[1:-1]}; give those of pieces of the same rows"
        )


def _check_array(caller: str, nodes: Nodes, array: Array) -> None:
    """Refuse an array of nodes that is not as `partial` makes it."""
    from cusoftmax.planning.pieces import node_dtype, node_words

    piece = _piece(nodes, caller, nodes.offset, nodes.size)
    shape = (
        piece.subtrees,
        *nodes.array.shape[1:-1],
        node_words(nodes.kernel, nodes.dtypes, selected(nodes)),
    )
    dtype = node_dtype(nodes.kernel, nodes.dtypes)
    dense = bool(array.flags.c_contiguous) or not prod(array.shape)
    if array.shape != shape or array.dtype != dtype or not dense:
        order = "contiguous" if dense else "not contiguous"
        raise ValueError(
            f"{caller}: the array of nodes has shape {array.shape} and dtype {array.dtype}, and is "
            f"{order}; give a contiguous one of shape {shape} and dtype {dtype}"
        )
