"""Rows in pieces have the bits that they have whole: `cusoftmax.nodes`, of each function."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.exceptions import AxisError

import cusoftmax as cs
from cusoftmax import nodes
from cusoftmax.operations.lookup import find
from cusoftmax.operations.options import piece_of
from cusoftmax.planning.pieces import Piece, chunk_of
from tests.support import DTYPES, bits, dtype_of, exhaustive, logits

# For each function: how many inputs have a value for each element, and a value for each row.
OF_ELEMENTS = {
    "softmax": (1, 0),
    "log_softmax": (1, 0),
    "logsumexp": (1, 0),
    "softmax_vjp": (2, 0),
    "softmax_jvp": (2, 0),
    "softmax_hvp": (3, 0),
    "softmax_vjp_vjp": (3, 0),
    "log_softmax_vjp": (2, 0),
    "log_softmax_jvp": (2, 0),
    "logsumexp_vjp": (1, 1),
    "softmax_value_and_vjp": (2, 0),
    "softmax_value_and_jvp": (2, 0),
    "log_softmax_value_and_vjp": (2, 0),
    "log_softmax_value_and_jvp": (2, 0),
}
# The first input of these is a softmax, or its logarithm.
OF_RESULTS = {"softmax_vjp", "softmax_jvp", "softmax_hvp", "softmax_vjp_vjp"}
OF_LOGARITHMS = {"log_softmax_vjp", "log_softmax_jvp"}
LENGTH = 5 * 1024 + 77
CUTS = (0, 1024, 1024, 3072, LENGTH)  # the second piece is empty


def inputs_of(op: str, dtype: str, rows: int, n: int) -> list[np.ndarray]:
    elements, of_rows = OF_ELEMENTS[op]
    drawn = [logits((rows, n), dtype, seed=i) for i in range(elements)]
    if op in OF_RESULTS | OF_LOGARITHMS:
        wide = drawn[0].astype(np.float64)
        wide[:, 2] += 12  # one class dominates
        y = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
        drawn[0] = (np.exp(y) if op in OF_RESULTS else y).astype(dtype_of(dtype))
    return drawn + [logits((rows,), dtype, seed=7) for _ in range(of_rows)]


def in_pieces(
    device: Any,
    op: str,
    inputs: list[np.ndarray],
    cuts: tuple[int, ...],
    combine: Callable[[list[nodes.Nodes]], nodes.Nodes] = nodes.combine,
    weight: Any = None,
    **options: Any,
) -> list[Any]:
    """Return the results of each piece, all inputs of which are copied by themselves."""
    length = inputs[0].shape[-1]

    def piece(first: int, end: int) -> list[Any]:
        along = [a[..., first:end] if a.shape == inputs[0].shape else a for a in inputs]
        return [device.asarray(np.ascontiguousarray(a)) for a in along]

    def partial(first: int, end: int) -> nodes.Nodes:
        x, *others = piece(first, end)
        place = {"offset": first, "length": length}
        return nodes.partial(x, op, *others, **place, weight=weight, **options)

    ranges = list(itertools.pairwise(cuts))
    whole = combine([partial(*each) for each in ranges])
    assert (len(whole), whole.offset, whole.size) == (1, 0, length)
    results = []
    for first, end in ranges:
        x, *others = piece(first, end)
        results.append(nodes.apply(x, whole, *others, offset=first, weight=weight))
    return results


def assert_joins(device: Any, results: list[Any], whole: Any, n: int) -> None:
    """Assert that the results of pieces, put together, have the bits of those of whole rows."""
    if isinstance(whole, tuple):
        for i, each in enumerate(whole):
            assert_joins(device, [r[i] for r in results], each, n)
        return
    expected = bits(device.asnumpy(whole))
    found = [bits(device.asnumpy(r)) for r in results]
    if expected.ndim > 1 and expected.shape[-1] == n:
        np.testing.assert_array_equal(np.concatenate(found, axis=-1), expected)
    else:
        for each in found:  # a value for each row, from each piece
            np.testing.assert_array_equal(each, expected)


CASES = [
    *((op, "float32") for op in OF_ELEMENTS),
    *((op, dtype) for op in ("softmax", "logsumexp") for dtype in ("float16", "float64")),
]
OTHERS = [c for c in itertools.product(OF_ELEMENTS, DTYPES) if c not in CASES]


@pytest.mark.parametrize(("op", "dtype"), [*CASES, *exhaustive(OTHERS)])
def test_pieces_have_the_bits_of_whole_rows(device: Any, op: str, dtype: str) -> None:
    inputs = inputs_of(op, dtype, 3, LENGTH)
    whole = getattr(cs, op)(*map(device.asarray, inputs))
    assert_joins(device, in_pieces(device, op, inputs, CUTS), whole, LENGTH)


def test_every_function_is_tried() -> None:
    others = {"cross_entropy", "cross_entropy_vjp", "topk_softmax", "sample"}
    assert {*OF_ELEMENTS, *others} == set(nodes.OPERATIONS)


# Pieces of each kind: one, halves, single chunks, ranges that are no subtrees; rows of powers of
# two of chunks, and others.
@pytest.mark.parametrize(
    ("n", "cuts"),
    [
        (4096, (0, 4096)),
        (4096, (0, 2048, 4096)),
        (4096, (0, 1024, 2048, 3072, 4096)),
        (4100, (0, 4096, 4100)),
        (7 * 1024 + 1, (0, 3072, 7168, 7169)),
        (7 * 1024, (0, 1024, 6144, 7168)),
        (40 * 1024 + 5, (0, 1024, 34 * 1024, 40 * 1024 + 5)),
        (80 * 1024, (0, 32 * 1024, 80 * 1024)),
        (33 * 1024, (0, 33 * 1024)),
        (700, (0, 700)),
        (700, (0, 0, 700, 700)),
        (1, (0, 1)),
        (1024, (0, 1024, 1024)),
    ],
)
def test_pieces_of_every_kind(device: Any, n: int, cuts: tuple[int, ...]) -> None:
    x = logits((2, n), "float32")
    whole = cs.logsumexp(device.asarray(x)), cs.softmax(device.asarray(x))
    for op, expected in zip(("logsumexp", "softmax"), whole, strict=True):
        assert_joins(device, in_pieces(device, op, [x], cuts), expected, n)


def test_long_pieces_make_a_node_of_several_chunks(device: Any) -> None:
    n = 1500 * 1024 + 9
    x = logits((1, n), "float32")
    cuts = (0, 1024 * 1024, 1026 * 1024, n)
    results = in_pieces(device, "logsumexp", [x], cuts)
    assert_joins(device, results, cs.logsumexp(device.asarray(x)), n)
    results = in_pieces(device, "logsumexp", [x], (0, n))
    assert_joins(device, results, cs.logsumexp(device.asarray(x)), n)


def test_any_order_of_combining_has_the_same_bits(device: Any) -> None:
    n = 11 * 1024 + 3
    x = logits((2, n), "float32", sigma=20.0)
    cuts = (*range(0, n, 1024), n)
    whole = cs.softmax(device.asarray(x))

    def in_turn(made: list[nodes.Nodes]) -> nodes.Nodes:
        result = made[0]
        for each in made[1:]:
            result = nodes.combine([each, result])
        return result

    def from_the_end(made: list[nodes.Nodes]) -> nodes.Nodes:
        result = made[-1]
        for each in made[-2::-1]:
            result = nodes.combine([result, each])
        return result

    def by_threes(made: list[nodes.Nodes]) -> nodes.Nodes:
        while len(made) > 1:
            made = [nodes.combine(made[i : i + 3]) for i in range(0, len(made), 3)]
        return made[0]

    for combine in (in_turn, from_the_end, by_threes):
        assert_joins(device, in_pieces(device, "softmax", [x], cuts, combine), whole, n)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_of_threads_changes_no_bits(device: Any, seed: int) -> None:
    n = 4 * 1024 + 9
    x = logits((2, n), "float32")
    with device.on(seed=seed):
        whole = cs.softmax(device.asarray(x))
        assert_joins(device, in_pieces(device, "softmax", [x], (0, 1024, 4096, n)), whole, n)


def aligned_subtrees(first: int, end: int, length: int) -> int:
    """Return how many of the largest aligned subtrees cover chunks, by trying all."""
    beyond = range(end, 4 * length) if end == length else range(0)
    present = {*range(first, end), *beyond}
    count, at = 0, first
    while at < end:
        size = 1
        while at % (2 * size) == 0 and all(c in present for c in range(at, at + 2 * size)):
            size *= 2
            if size >= length:
                break
        at += size
        count += 1
    return count


def test_number_of_subtrees() -> None:
    for length in range(1, 20):
        for first in range(length):
            for end in range(first + 1, length + 1):
                piece = Piece(1024 * length, 1024 * first, 1024 * end, 1024)
                assert piece.subtrees == aligned_subtrees(first, end, length), piece


def test_the_chunk_divides_1024() -> None:
    for op, dtype in itertools.product(OF_ELEMENTS, DTYPES):
        name = piece_of(op)
        operation = find(name)
        operands = len(operation.read + operation.written)
        assert 1024 % chunk_of(name, (dtype,) * operands) == 0


# ------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("float32", {"grad": True}),
        ("float16", {"grad": True}),
        ("float32", {}),
        ("float32", {"grad": True, "label_smoothing": 0.1, "z_loss": 0.01}),
        *exhaustive(
            [
                ("float64", {"grad": True}),
                ("bfloat16", {"grad": True}),
                ("float32", {"grad": True, "softcap": 30.0}),
            ]
        ),
    ],
)
def test_losses(device: Any, dtype: str, options: dict[str, Any]) -> None:
    x = logits((5, LENGTH), dtype)
    target = np.array([0, 3071, 3072, LENGTH - 1, -100])
    given = [device.asarray(x), device.asarray(target)]
    whole = cs.cross_entropy(*given, reduction="none", **options)
    results = in_pieces(device, "cross_entropy", [x, target], CUTS, **options)
    assert_joins(device, results, whole, LENGTH)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weights_of_classes(device: Any, smoothing: float) -> None:
    x, target = logits((3, LENGTH), "float32"), np.array([5, 4000, LENGTH])  # the last is no class
    weight = device.asarray(np.random.default_rng(0).random(LENGTH, np.float32))
    options = {"weight": weight, "label_smoothing": smoothing, "grad": True}
    given = device.asarray(x), device.asarray(target)
    whole = cs.cross_entropy(*given, reduction="none", **options)
    results = in_pieces(device, "cross_entropy", [x, target], CUTS, **options)
    assert_joins(device, results, whole, LENGTH)


def test_soft_targets(device: Any) -> None:
    x = logits((2, LENGTH), "float32")
    target = np.abs(logits((2, LENGTH), "float32", seed=3))
    target /= target.sum(axis=1, keepdims=True)
    whole = cs.cross_entropy(*map(device.asarray, (x, target)), reduction="none", grad=True)
    results = in_pieces(device, "cross_entropy", [x, target], CUTS, grad=True)
    assert_joins(device, results, whole, LENGTH)


def test_vjp_of_losses(device: Any) -> None:
    x, target = logits((2, LENGTH), "float32"), np.array([1, 5000])
    dloss = np.array([2.0, -3.0], np.float32)
    whole = cs.cross_entropy_vjp(*map(device.asarray, (x, target, dloss)))
    results = in_pieces(device, "cross_entropy_vjp", [x, target, dloss], CUTS)
    assert_joins(device, results, whole, LENGTH)


# ------------------------------------------------------------------------------------------- logits

# Each by itself and all together, of functions with every order of inputs; and of the others.
LOGITS = [
    ("softmax", ("scale",)),
    ("softmax_vjp", ("mask",)),
    ("logsumexp_vjp", ("scale", "bias", "mask")),
    ("softmax_value_and_jvp", ("scale", "bias", "mask", "causal")),
]
OTHER_LOGITS = [
    *(("softmax", (name,)) for name in ("bias", "mask", "causal")),
    *((op, ("scale", "mask", "causal")) for op in nodes._OF_RESULTS),
    *((op, ("scale", "bias", "mask", "causal")) for op in nodes._OF_LOGITS),
]


@pytest.mark.parametrize(("op", "names"), [*LOGITS, *exhaustive(OTHER_LOGITS)])
def test_logits_that_are_scaled_biased_or_hidden(device: Any, op: str, names: Any) -> None:
    n = 2100
    x, *others = (a.reshape(2, 2, *a.shape[1:]) for a in inputs_of(op, "float32", 4, n))
    more = {
        "bias": logits((2, 1, n), "float16", seed=5),
        "mask": np.random.default_rng(0).random((2, n)) < 0.6,
    }
    more = {name: array for name, array in more.items() if name in names}
    options = {"scale": -1.7, "causal": True}
    options = {name: value for name, value in options.items() if name in names}
    given = {name: device.asarray(array) for name, array in more.items()}
    whole = getattr(cs, op)(device.asarray(x), *map(device.asarray, others), **given, **options)
    pieces, made = [], []
    for first, end in ((0, 1024), (1024, n)):

        def cut(array: np.ndarray, part: slice = slice(first, end)) -> Any:
            along = array.shape[-1] == n
            return device.asarray(np.ascontiguousarray(array[..., part]) if along else array)

        arrays = {name: cut(array) for name, array in more.items()}
        pieces.append((cut(x), [cut(other) for other in others], arrays))
        place: Any = {"offset": first, "length": n}
        made.append(nodes.partial(pieces[-1][0], op, *pieces[-1][1], **place, **arrays, **options))
    node = nodes.combine(made)
    results = [
        nodes.apply(piece, node, *rest, offset=1024 * i, **arrays)
        for i, (piece, rest, arrays) in enumerate(pieces)
    ]
    assert_joins(device, results, whole, n)
    with pytest.raises(ValueError, match="give weight, mask and bias where they were given"):
        nodes.apply(device.asarray(x), nodes.partial(
            device.asarray(x), op, *map(device.asarray, others), offset=0, length=n,
        ), *map(device.asarray, others), offset=0, mask=device.asarray(x > 0))  # fmt: skip


def test_wrong_options_of_logits(device: Any) -> None:
    x = device.asarray(np.zeros((2, 2048), np.float32))
    place: Any = {"offset": 0, "length": 2048}
    mask = device.asarray(np.ones((2, 2048), bool))
    for call, kind, message in (
        (lambda: nodes.partial(x, "softmax_vjp", x, bias=x, **place), TypeError, "has no bias="),
        (lambda: nodes.partial(x, "softmax_hvp", x, x, mask=mask, **place), TypeError, "no mask="),
        (lambda: nodes.partial(x, "sample", seed=1, scale=2.0, **place), TypeError, "no scale="),
        (lambda: nodes.partial(x, "topk_softmax", k=1, causal=True, **place), TypeError, "causal="),
        (lambda: nodes.partial(x, "softmax", mask=x, **place), TypeError, "mask has dtype float32"),
        (lambda: nodes.partial(x, "softmax", mask=mask[:, :9], **place), ValueError, "broadcast"),
        (lambda: nodes.partial(x, "softmax", scale="a", **place), TypeError, "partial: scale='a'"),
        (lambda: nodes.partial(x, "softmax", scale=np.inf, **place), ValueError, "scale=inf"),
        (lambda: nodes.partial(x.T, "softmax", axis=0, causal=True, **place), ValueError,
         "partial: causal=True with axis=0"),
        (lambda: nodes.combine([
            nodes.partial(x[:, :1024], "softmax", offset=0, length=2048, scale=2.0),
            nodes.partial(x[:, 1024:], "softmax", offset=1024, length=2048, scale=3.0),
        ]), ValueError, "options="),
    ):  # fmt: skip
        with pytest.raises(kind, match=message):
            call()


# --------------------------------------------------------------------------------------- selections

SELECTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "one": ("topk_softmax", {"k": 1}),
    "few": ("topk_softmax", {"k": 8}),
    "most": ("topk_softmax", {"k": 64}),
    "gates": ("topk_softmax", {"k": 6, "normalise": "topk"}),
    "many gates": ("topk_softmax", {"k": 33, "normalise": "topk"}),
    "sample": ("sample", {"seed": 2**40 + 7}),
    "hot sample": ("sample", {"seed": 1, "temperature": 3.0}),
    "cold sample": ("sample", {"seed": 1, "temperature": 0.0}),
}


def assert_selects(
    device: Any, x: np.ndarray, cuts: tuple[int, ...], kinds: Any = tuple(SELECTIONS), **how: Any
) -> None:
    """Assert that each piece gives the values and indices of whole rows, of some `SELECTIONS`."""
    for kind in kinds:
        op, given = SELECTIONS[kind]
        options = given | ({"k": min(given["k"], x.shape[-1])} if "k" in given else {})
        whole = getattr(cs, op)(device.asarray(x), **options)
        expected = whole if isinstance(whole, tuple) else (whole,)
        for result in in_pieces(device, op, [x], cuts, **how, **options):
            found = result if isinstance(result, tuple) else (result,)
            for a, b in zip(found, expected, strict=True):
                a, b = device.asnumpy(a), device.asnumpy(b)
                np.testing.assert_array_equal(bits(a), bits(b), err_msg=f"{kind} {x.shape} {cuts}")


def tied(rows: int, n: int, dtype: str) -> np.ndarray:
    """Return logits, of which every second row has few values, and equal ones in every piece."""
    x = logits((rows, n), dtype)
    x[1::2] = np.round(x[1::2].astype(np.float32)).astype(x.dtype)
    return x


SELECTED = [
    *((kind, "float32") for kind in SELECTIONS),
    *itertools.product(("few", "sample"), ("float16", "float64")),
]
OTHER_SELECTIONS = [c for c in itertools.product(SELECTIONS, DTYPES) if c not in SELECTED]


@pytest.mark.parametrize(("kind", "dtype"), [*SELECTED, *exhaustive(OTHER_SELECTIONS)])
def test_selections(device: Any, kind: str, dtype: str) -> None:
    assert_selects(device, tied(3, LENGTH, dtype), CUTS, [kind])


@pytest.mark.parametrize(
    ("n", "cuts"),
    [
        (4096, (0, 4096)),
        (4096, (0, 2048, 4096)),
        (4100, (0, 4096, 4100)),  # the last piece has fewer elements than are selected
        (7 * 1024 + 1, (0, 3072, 7168, 7169)),
        (7 * 1024, (0, 1024, 6144, 7168)),
        (7 * 1024, tuple(range(0, 7169, 1024))),
        (9 * 1024, (0, 2048, 3072, 7168, 9216)),
        (700, (0, 700)),
        (40, (0, 0, 40, 40)),
        (3, (0, 3)),
        (1, (0, 1, 1)),
    ],
)
def test_selections_from_pieces_of_every_kind(device: Any, n: int, cuts: tuple[int, ...]) -> None:
    kinds = ("few", "most", "many gates", "sample")
    assert_selects(device, tied(2, n, "float32"), cuts, kinds)


@pytest.mark.parametrize("most", [1, 3])
def test_a_list_of_several_chunks(device: Any, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of many rows, whose warps have more than a chunk each."""
    monkeypatch.setattr("cusoftmax.planning.pieces.lists_of_piece", lambda _: most)
    n = (20 + most) * 1024 + 5  # a plan that no other test has
    x = tied(2, n, "float32")
    for cuts in ((0, 4096, n), (0, 3072, n - 5, n)):
        assert_selects(device, x, cuts, ("few", "gates", "sample"))


@pytest.mark.parametrize("seed", [1, 2])
def test_blocks_that_go_on_to_other_rows(
    device: Any, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("topk", "pieces"):
        monkeypatch.setattr(f"cusoftmax.planning.{module}.MAX_GRID", 2)
    n = 3 * 1024 + 13 + seed  # a plan that no other test has
    x, cuts = tied(19, n, "float32"), (0, 1024, n)
    with device.on(seed=seed):
        assert_selects(device, x, cuts, ("few", "gates", "sample"))
        assert_selects(device, x[:, : 40 + seed], (0, 40 + seed), ("few", "sample"))
        whole = cs.softmax(device.asarray(x))
        assert_joins(device, in_pieces(device, "softmax", [x], cuts), whole, n)


def test_selections_of_special_values(device: Any) -> None:
    n = 4 * 1024 + 3  # of which the last piece has fewer than are selected
    for dtype in ("float32", "float16"):
        x = logits((8, n), dtype)
        x[0, [3071, 3072]] = np.nan
        x[1, [1, 4000]] = np.inf
        x[2, :3072] = -np.inf
        x[3] = -np.inf
        x[4], x[5] = 0.0, -0.0
        x[5, 1024:] = 0.0
        x[6] = -np.inf
        x[6, [1023, n - 1]] = 1.0  # fewer numbers than are selected
        x[7, 2000], x[7, 4097] = np.inf, np.nan
        cuts = (0, 1024, 1024, 3072, 4096, n)
        assert_selects(device, x, cuts, ("most", "gates", "sample", "cold sample"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_indices_of_more_than_32_bits(device: Any, dtype: str) -> None:
    """A piece far from the row's start, taken for the whole row: no memory holds the rest."""
    x, first = logits((2, 1024), dtype), 5 * 2**33
    place: Any = {"offset": first, "length": first + 1024, "k": 3, "normalise": "topk"}
    made = nodes.partial(device.asarray(x), "topk_softmax", **place)
    whole = replace(made, offset=0, size=made.length)
    _, indices = nodes.apply(device.asarray(x[:, :0]), whole, offset=0)
    expected = first + np.argsort(-x, axis=1, kind="stable")[:, :3]
    np.testing.assert_array_equal(device.asnumpy(indices), expected)


def test_selections_of_integers(device: Any) -> None:
    rng = np.random.default_rng(0)
    for dtype in ("int64", "int16"):
        high = np.iinfo(dtype).max  # beyond 2**53, logits differ that are equal as float64
        x = rng.integers(high - 900, high, (2, LENGTH), dtype)
        assert_selects(device, x, CUTS, ("few", "gates", "cold sample"))


def test_selections_in_any_order_of_combining(device: Any) -> None:
    n = 5 * 1024 + 3
    x, cuts = tied(2, n, "float32"), (*range(0, n, 1024), n)

    def from_the_end(made: list[nodes.Nodes]) -> nodes.Nodes:
        result = made[-1]
        for each in made[-2::-1]:
            result = nodes.combine([result, each])
        return result

    def by_twos(made: list[nodes.Nodes]) -> nodes.Nodes:
        while len(made) > 1:
            made = [nodes.combine(made[i : i + 2]) for i in range(0, len(made), 2)]
        return made[0]

    for combine in (from_the_end, by_twos):
        assert_selects(device, x, cuts, ("few", "gates", "sample"), combine=combine)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_of_threads_changes_no_selection(device: Any, seed: int) -> None:
    with device.on(seed=seed):
        assert_selects(device, tied(2, 4 * 1024 + 9, "float32"), (0, 1024, 4096, 4105))


def test_selections_of_several_dimensions_and_into_arrays(device: Any) -> None:
    n, k = 3 * 1024, 5
    x = logits((2, 3, n), "float32")
    values, indices = (device.asnumpy(a) for a in cs.topk_softmax(device.asarray(x), k))
    drawn = device.asnumpy(cs.sample(device.asarray(x), seed=3))
    swapped = device.asarray(np.ascontiguousarray(x.transpose(1, 0, 2))).transpose(2, 1, 0)
    made = [
        nodes.partial(swapped[i : i + 1024], "topk_softmax", offset=i, length=n, axis=0, k=k)
        for i in (0, 1024, 2048)
    ]
    whole = nodes.combine(made)
    out = (
        device.asarray(np.zeros((3, k, 2), np.float32)).transpose(1, 2, 0),
        device.asarray(np.zeros((2 * k, 2, 3), np.int64))[::2],
    )
    for first, end in ((0, 1024), (5, 5), (2048, 2049)):  # nothing of the piece is read
        place = {"offset": n if first == 2048 else 0}
        piece = swapped[first:end] if first != 2048 else swapped[:0]
        assert nodes.apply(piece, whole, out=out, **place) is not None
        for found, expected in zip(out, (values, indices), strict=True):
            moved = device.asnumpy(found).transpose(1, 2, 0)
            np.testing.assert_array_equal(bits(moved), bits(expected))
    made = [
        nodes.partial(swapped[i : i + 1024], "sample", offset=i, length=n, axis=0, seed=3)
        for i in (0, 1024, 2048)
    ]
    result = nodes.apply(swapped[:0], nodes.combine(made), offset=0)
    np.testing.assert_array_equal(device.asnumpy(result), drawn)


def test_draws_of_rows_that_lie_in_several_arrays(device: Any) -> None:
    """Noise follows from a row's number among all of them: `first_row`."""
    x = np.round(logits((3, 2, 1100), "float32"))
    for n in (1100, 40):  # a warp has one row, or several
        rows = np.ascontiguousarray(x[..., :n])
        drawn = device.asnumpy(cs.sample(device.asarray(rows), seed=3))
        for first in (1, 2):
            part = device.asarray(rows[first:])
            place: Any = {"offset": 0, "length": n, "seed": 3, "first_row": 2 * first}
            made = nodes.partial(part, "sample", **place)
            result = device.asnumpy(nodes.apply(part, made, offset=0))
            np.testing.assert_array_equal(result, drawn[first:])


def test_dtype_of_selected_values(device: Any) -> None:
    x = logits((2, 2048), "float16")
    place: Any = {"offset": 0, "length": 2048, "k": 3}
    made = nodes.partial(device.asarray(x), "topk_softmax", dtype="float32", **place)
    values, indices = nodes.apply(device.asarray(x), made, offset=0)
    expected = cs.topk_softmax(device.asarray(x), 3, dtype="float32")
    assert (values.dtype, indices.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(device.asnumpy(values), device.asnumpy(expected[0]))


def test_words_of_selections(device: Any) -> None:
    """A key and an index of 64 bits for each element, and without sums one node for any piece."""
    for kind, dtype, words, subtrees in (
        ("few", "float32", 4 + 3 * 8, 2), ("few", "float64", 4 + 2 * 8, 2),
        ("gates", "float16", 3 * 6, 1), ("sample", "float32", 3, 1),
    ):  # fmt: skip
        op, options = SELECTIONS[kind]
        x = device.asarray(logits((2, 3072), dtype))
        made = nodes.partial(x, op, offset=1024, length=5000, **options)
        assert made.array.shape == (subtrees, 2, words) == made.shape_of(1024, 3072)
        assert nodes.partial(x[:, :0], op, offset=0, length=5000, **options).array.size == 0


def test_no_rows_to_select_from(device: Any) -> None:
    x = device.asarray(np.zeros((0, 2048), np.float32))
    for op, options, shapes in (
        ("topk_softmax", {"k": 3}, ((0, 3), (0, 3))),
        ("sample", {"seed": 0}, ((0,),)),
    ):
        made = [
            nodes.partial(x[:, i : i + 1024], op, offset=i, length=2048, **options)
            for i in (0, 1024)
        ]
        found = nodes.apply(x, nodes.combine(made), offset=0)
        assert tuple(a.shape for a in (found if op == "topk_softmax" else (found,))) == shapes


def test_wrong_selections(device: Any) -> None:
    x = device.asarray(np.zeros((2, 2048), np.float32))

    def part(op: str, first: int = 0, **options: Any) -> nodes.Nodes:
        return nodes.partial(x[:, first:], op, **({"offset": first, "length": 2048} | options))

    def few(**options: Any) -> nodes.Nodes:
        return nodes.partial(x[:, :2], "topk_softmax", offset=0, length=2, **options)

    seed = {"seed": 1}
    for wrong, kind, message in (
        (lambda: part("topk_softmax"), TypeError, "partial: k=None is not accepted"),
        (lambda: part("topk_softmax", k=65), ValueError, "partial: k=65 is not accepted"),
        (lambda: part("topk_softmax", k=0), ValueError, "partial: k=0 is not accepted"),
        (lambda: part("topk_softmax", k=2.0), TypeError, "k=2.0"),
        (lambda: few(k=3), ValueError, "k=3, but a row has only 2 elements"),
        (lambda: few(k=1, normalise="rows"), ValueError, "normalise='rows'"),
        (lambda: part("topk_softmax", k=1, seed=1), TypeError, "topk_softmax has no seed="),
        (lambda: part("softmax", k=1), TypeError, "softmax has no k="),
        (lambda: part("sample"), TypeError, "partial: seed=None is not accepted"),
        (lambda: part("sample", seed=-1), ValueError, "partial: seed=-1 is not accepted"),
        (lambda: part("sample", temperature=-1.0, **seed), ValueError, "temperature=-1.0"),
        (lambda: part("sample", first_row=-1, **seed), ValueError, "partial: first_row=-1"),
        (lambda: part("topk_softmax", k=1, first_row=2), TypeError, "has no first_row="),
        (lambda: part("sample", dtype="float32", **seed), TypeError, "sample has no dtype="),
        (lambda: part("sample", weight=x, **seed), TypeError, "sample has no weight="),
        (lambda: nodes.partial(x[:, :0], "sample", offset=0, length=0, **seed), ValueError,
         "row no element"),
        (lambda: nodes.combine([part("topk_softmax", k=1), part("topk_softmax", 1024, k=2)]),
         ValueError, "nodes of options="),
        (lambda: part("topk_softmax", k=1, axis=2), AxisError, "axis 2"),
        (lambda: nodes.partial(x, "sample", x, offset=0, length=2048, **seed), TypeError,
         "2 arrays for sample"),
        (lambda: nodes.partial(x.T, "sample", offset=0, length=2, **seed), ValueError,
         "not neighbours"),
        (lambda: nodes.apply(x, part("topk_softmax", k=2), offset=0, out=x), TypeError, "out"),
        (lambda: nodes.apply(x, part("sample", **seed), offset=0, out=x), TypeError, "int64"),
    ):  # fmt: skip
        with pytest.raises(kind, match=message):
            wrong()


# ----------------------------------------------------------------------------------- special values


@pytest.mark.parametrize("op", ["softmax", "log_softmax", "logsumexp"])
def test_special_values(device: Any, op: str) -> None:
    x = logits((7, LENGTH), "float32")
    x[0, 2000] = np.nan
    x[1, 4000] = np.inf
    x[2, :3072] = -np.inf
    x[3] = -np.inf
    x[4, 1500] = 3e38  # all others vanish
    x[5] = 0.0
    x[6] = -3e38
    whole = getattr(cs, op)(device.asarray(x))
    assert_joins(device, in_pieces(device, op, [x], CUTS), whole, LENGTH)


def test_one_class_dominates_in_any_piece(device: Any) -> None:
    x, v = logits((4, LENGTH), "float32"), logits((4, LENGTH), "float32", seed=1)
    for row, place in enumerate((0, 1024, 3071, LENGTH - 1)):
        x[row, place] = 40.0
    y = device.asnumpy(cs.softmax(device.asarray(x)))
    whole = cs.softmax_vjp(device.asarray(y), device.asarray(v))
    assert_joins(device, in_pieces(device, "softmax_vjp", [y, v], CUTS), whole, LENGTH)


# ---------------------------------------------------------------------------------- arrays and rows


def test_rows_in_several_dimensions_and_any_memory_order(device: Any) -> None:
    n = 3 * 1024
    x = logits((2, 3, n), "float32")
    whole = device.asnumpy(cs.softmax(device.asarray(x)))
    swapped = device.asarray(np.ascontiguousarray(x.transpose(1, 0, 2))).transpose(1, 0, 2)
    given = device.asarray(x)
    made = [
        nodes.partial(given[..., :1024], "softmax", offset=0, length=n),
        nodes.partial(swapped[..., 1024:], "softmax", offset=1024, length=n),
    ]
    row = nodes.combine(made)
    for array in (given, swapped):
        result = device.asnumpy(nodes.apply(array[..., 2048:], row, offset=2048))
        np.testing.assert_array_equal(bits(result), bits(whole[..., 2048:]))


def test_in_place_and_into_an_array(device: Any) -> None:
    x = logits((3, 2048), "float32")
    whole = device.asnumpy(cs.softmax(device.asarray(x)))
    given, target = device.asarray(x), device.asarray(np.zeros_like(x))
    made = nodes.partial(given, "softmax", offset=0, length=2048)
    assert nodes.apply(given, made, offset=0, out=target) is target
    assert nodes.apply(given, made, offset=0, out=given) is given
    for result in (target, given):
        np.testing.assert_array_equal(bits(device.asnumpy(result)), bits(whole))


def test_a_row_of_no_dimensions_beside_it(device: Any) -> None:
    x = logits((2048,), "float32")
    made = nodes.partial(device.asarray(x[:1024]), "softmax", offset=0, length=2048)
    rest = nodes.partial(device.asarray(x[1024:]), "softmax", offset=1024, length=2048)
    assert made.array.shape == made.shape_of(0, 1024)
    received = made.of(rest.array, 1024, 1024)
    result = nodes.apply(device.asarray(x[1024:]), nodes.combine([received, made]), offset=1024)
    whole = device.asnumpy(cs.softmax(device.asarray(x)))
    np.testing.assert_array_equal(bits(device.asnumpy(result)), bits(whole[1024:]))


def test_no_rows(device: Any) -> None:
    x = device.asarray(np.zeros((0, 2048), np.float32))
    made = [nodes.partial(x[:, i : i + 1024], "softmax", offset=i, length=2048) for i in (0, 1024)]
    assert nodes.apply(x, nodes.combine(made), offset=0).shape == (0, 2048)


# ------------------------------------------------------------------------------------------- errors


def test_boundaries_within_a_chunk(device: Any) -> None:
    x = device.asarray(np.zeros((1, 1000), np.float32))
    with pytest.raises(ValueError, match=r"begins at element 1500 .* boundaries are 1024 and 2048"):
        nodes.partial(x, "softmax", offset=1500, length=4096)
    with pytest.raises(ValueError, match=r"ends at element 3048 .* boundaries are 2048 and 3072"):
        nodes.partial(x, "softmax", offset=2048, length=4096)
    with pytest.raises(ValueError, match=r"boundaries are 4096 and 4500"):
        nodes.partial(x[:, :4], "softmax", offset=4100, length=4500)
    with pytest.raises(ValueError, match="rows of 1024 elements are not divided"):
        nodes.partial(x[:, :512], "softmax", offset=0, length=1024)
    with pytest.raises(ValueError, match="is not within rows of length=900"):
        nodes.partial(x, "softmax", offset=0, length=900)
    with pytest.raises(ValueError, match="offset=-1024 is not within"):
        nodes.partial(x, "softmax", offset=-1024, length=4096)


def test_wrong_arguments(device: Any) -> None:
    x = device.asarray(np.zeros((2, 2048), np.float32))
    place: Any = {"offset": 0, "length": 2048}
    target = device.asarray(np.zeros(2, np.int64))
    for wrong, kind, message in (
        (lambda: nodes.partial(x, "sofmax", **place), ValueError, "op='sofmax' is not known"),
        (lambda: nodes.partial(x, 3, **place), TypeError, "op=3 is not accepted"),
        (lambda: nodes.partial(x, "softmax", x, **place), TypeError, "2 arrays for softmax"),
        (lambda: nodes.partial(x, "softmax_vjp", **place), TypeError, "takes y, dy"),
        (lambda: nodes.partial(x, "softmax", grad=True, **place), TypeError, "has no grad="),
        (lambda: nodes.partial(x, "softmax", weight=x, **place), TypeError, "has no weight="),
        (lambda: nodes.partial(x, "softmax", axis=2, **place), AxisError, "axis 2"),
        (lambda: nodes.partial(x, "softmax", axis=None, **place), TypeError, "axis=None"),
        (lambda: nodes.partial(x.T, "softmax", axis=0, **place), None, ""),
        (lambda: nodes.partial(x.T, "softmax", offset=0, length=2), ValueError, "not neighbours"),
        (lambda: nodes.partial(x, "softmax", offset=0.0, length=2048), TypeError, "offset=0.0"),
        (lambda: nodes.partial(x, "softmax", offset=0, length="4"), TypeError, "length='4'"),
        (lambda: nodes.partial(np.zeros((2, 4)), "softmax", **place), TypeError, "numpy.ndarray"),
        (lambda: nodes.partial(x, "softmax_vjp", x[:1], **place), ValueError, "dy has shape"),
        (lambda: nodes.partial(x, "cross_entropy", **place), TypeError, "takes logits, target"),
        (
            lambda: nodes.partial(x, "cross_entropy", target, dtype="float64", **place),
            TypeError,
            "has no dtype=",
        ),
        (
            lambda: nodes.partial(x, "cross_entropy", target, label_smoothing=2.0, **place),
            ValueError,
            "label_smoothing=2.0",
        ),
        (
            lambda: nodes.partial(x, "cross_entropy", target[:1], **place),
            ValueError,
            "target has shape",
        ),
    ):
        if kind is None:
            wrong()
            continue
        with pytest.raises(kind, match=message):
            wrong()


def test_nodes_that_do_not_join(device: Any) -> None:
    x = device.asarray(np.zeros((2, 4096), np.float32))

    def part(first: int, end: int, op: str = "softmax", **kind: Any) -> nodes.Nodes:
        return nodes.partial(x[:, first:end], op, offset=first, length=4096, **kind)

    with pytest.raises(ValueError, match="elements 1024 to 2048 of the rows are missing"):
        nodes.combine([part(2048, 4096), part(0, 1024)])
    with pytest.raises(ValueError, match="elements 1024 to 2048 of the rows are in two pieces"):
        nodes.combine([part(0, 2048), part(1024, 4096)])
    with pytest.raises(ValueError, match="nodes of op='softmax' and of 'log_softmax'"):
        nodes.combine([part(0, 2048), part(2048, 4096, "log_softmax")])
    with pytest.raises(ValueError, match="nodes of dtypes="):
        nodes.combine([part(0, 2048), part(2048, 4096, dtype="float64")])
    with pytest.raises(ValueError, match="there are no nodes"):
        nodes.combine([])
    with pytest.raises(TypeError, match="give a list of Nodes"):
        nodes.combine([part(0, 2048).array])
    one = nodes.partial(x[:1, 2048:], "softmax", offset=2048, length=4096)
    with pytest.raises(ValueError, match=r"arrays of \(2,\) and of \(1,\)"):
        nodes.combine([part(0, 2048), one])
    first = part(0, 2048)
    with pytest.raises(ValueError, match=r"those of elements 0 to 2048 of rows of 4096"):
        nodes.apply(x[:, :2048], first, offset=0)
    with pytest.raises(TypeError, match="give the Nodes that combine returns"):
        nodes.apply(x, first.array, offset=0)
    with pytest.raises(ValueError, match="array has shape"):
        first.of(first.array, 1024, 3072)
    whole = part(0, 4096)
    wide = device.asarray(np.zeros((1, 2, 8), np.float32))[..., ::2]
    with pytest.raises(ValueError, match="and is not contiguous"):
        nodes.apply(x, whole.of(wide, 0, 4096), offset=0)
    double = device.asarray(np.zeros((1, 2, 4)))
    with pytest.raises(ValueError, match="and dtype float64"):
        nodes.combine([part(0, 2048), whole.of(double, 2048, 2048)])
    with pytest.raises(TypeError, match=r"nodes.array is a numpy.ndarray"):
        nodes.apply(x, whole.of(np.zeros((1, 2, 4), np.float32), 0, 4096), offset=0)
    with pytest.raises(ValueError, match="nodes are those of rows in an array of"):
        nodes.apply(x[:1], whole, offset=0)
    with pytest.raises(TypeError, match="nodes are those of float32"):
        nodes.apply(device.asarray(np.zeros((2, 4096), np.float16)), whole, offset=0)
    with pytest.raises(ValueError, match=r"within a chunk of 1024"):
        nodes.apply(x[:, :100], whole, offset=0)
    with pytest.raises(ValueError, match="overlap"):
        nodes.apply(x[:, :3072], whole, offset=0, out=x[:, 1024:])


def test_nothing_is_launched_by_a_wrong_call(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x = device.asarray(np.zeros((2, 4096), np.float32))

    def launched(*_: Any) -> None:
        raise AssertionError("a kernel was launched")

    monkeypatch.setattr("cusoftmax.runtime.pieces._launch", launched)
    with pytest.raises(ValueError, match="within a chunk"):
        nodes.partial(x, "softmax", offset=5, length=8192)
