"""Rows among ranks have the bits that they have on one device, and no rank waits in vain.

Ranks are threads here, which meet by communicators with the interfaces of mpi4py and of NCCL.
tests/functions/test_mpi.py has real MPI.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.exceptions import AxisError

import cusoftmax as cs
from cusoftmax import distributed, nodes
from tests.functions import rank_stand_ins as stand_ins
from tests.functions.rank_stand_ins import Meeting, on_ranks
from tests.support import bits, exhaustive, logits

LENGTH = 6 * 1024 + 77
SIZES = (1024, 0, 3072, LENGTH - 4096)  # uneven, and one rank has none
STARTS = tuple(itertools.accumulate(SIZES, initial=0))
COMMUNICATORS = ("mpi", "aware", "nccl", "cupyx")
K = 40  # of topk_softmax


def communicators(kind: str, count: int) -> list[Any]:
    meeting = Meeting(count)
    made = {"nccl": stand_ins.Nccl, "cupyx": stand_ins.Cupyx}.get(kind, stand_ins.Mpi)
    return [made(meeting, rank) for rank in range(count)]


def ranks_of(kind: str, communicator: Any, size: int) -> distributed.Ranks:
    return distributed.Ranks(communicator, size, cuda_aware=kind == "aware")


def slice_of(device: Any, array: np.ndarray, rank: int, sizes: tuple[int, ...] = SIZES) -> Any:
    start = sum(sizes[:rank])
    return device.asarray(np.ascontiguousarray(array[..., start : start + sizes[rank]]))


def assert_joins(device: Any, results: list[Any], whole: Any) -> None:
    """Assert that the ranks' results, put together, have the bits of those of one device."""
    for each in results:
        if isinstance(each, BaseException):
            raise each
    if isinstance(whole, tuple):
        for i, each in enumerate(whole):
            assert_joins(device, [r[i] for r in results], each)
        return
    expected = bits(device.asnumpy(whole))
    found = [bits(device.asnumpy(r)) for r in results]
    if expected.shape[-1] == LENGTH:
        np.testing.assert_array_equal(np.concatenate(found, axis=-1), expected)
    else:
        for each in found:  # values of rows, on each rank
            np.testing.assert_array_equal(each, expected)


Call = Callable[[distributed.Ranks, Callable[[np.ndarray], Any], Callable[[np.ndarray], Any]], Any]


def cases(dtype: str) -> dict[str, tuple[Call, Callable[[Callable[[np.ndarray], Any]], Any]]]:
    """Return for each function the call of a rank, and that of one device.

    The first has functions that give a rank's slice of an array, and a whole one.
    """
    x = logits((3, LENGTH), dtype, sigma=3.0)
    v, rows = logits((3, LENGTH), dtype, seed=1), logits((3,), dtype, seed=2)
    y = np.exp(x.astype(np.float64) - np.log(np.exp(x.astype(np.float64)).sum(1, keepdims=True)))
    y, logy = y.astype(x.dtype), np.log(y).astype(x.dtype)
    target = np.array([5, 4095, -100])
    tied = np.round(x.astype(np.float32)).astype(x.dtype)  # equal logits on all ranks
    options: dict[str, Any] = {"label_smoothing": 0.1, "z_loss": 0.01}
    d = distributed
    return {
        **{
            op: (
                lambda r, part, _, op=op: getattr(d, op)(part(x), r),
                lambda whole, op=op: getattr(cs, op)(whole(x)),
            )
            for op in ("softmax", "log_softmax", "logsumexp")
        },
        "softmax_vjp": (
            lambda r, part, _: d.softmax_vjp(part(y), part(v), r),
            lambda whole: cs.softmax_vjp(whole(y), whole(v)),
        ),
        "log_softmax_vjp": (
            lambda r, part, _: d.log_softmax_vjp(part(logy), part(v), r),
            lambda whole: cs.log_softmax_vjp(whole(logy), whole(v)),
        ),
        "logsumexp_vjp": (
            lambda r, part, whole: d.logsumexp_vjp(part(x), whole(rows), r),
            lambda whole: cs.logsumexp_vjp(whole(x), whole(rows)),
        ),
        "cross_entropy": (
            lambda r, part, whole: d.cross_entropy(part(x), whole(target), r, grad=True, **options),
            lambda whole: cs.cross_entropy(
                whole(x), whole(target), reduction="none", grad=True, **options
            ),
        ),
        "cross_entropy_vjp": (
            lambda r, part, whole: d.cross_entropy_vjp(part(x), whole(target), whole(rows), r),
            lambda whole: cs.cross_entropy_vjp(whole(x), whole(target), whole(rows)),
        ),
        "topk_softmax": (
            lambda r, part, _: d.topk_softmax(part(tied), K, r),
            lambda whole: cs.topk_softmax(whole(tied), K),
        ),
        "sample": (
            lambda r, part, _: d.sample(part(x), r, seed=5, temperature=2.0),
            lambda whole: cs.sample(whole(x), seed=5, temperature=2.0),
        ),
    }


FUNCTIONS = tuple(cases("float32"))


@pytest.mark.parametrize(
    ("op", "dtype", "kind"),
    [
        *((op, "float32", "mpi") for op in FUNCTIONS),
        *(("softmax", "float16", kind) for kind in COMMUNICATORS),
        ("cross_entropy", "bfloat16", "nccl"),
        ("logsumexp", "float64", "nccl"),
        ("topk_softmax", "float64", "nccl"),
        ("sample", "float16", "nccl"),
        *exhaustive([(op, d, k) for op in FUNCTIONS for d in ("float16", "float64") for k in
                     COMMUNICATORS]),
    ],
)  # fmt: skip
def test_results_have_the_bits_of_one_device(device: Any, op: str, dtype: str, kind: str) -> None:
    of_rank, of_one = cases(dtype)[op]
    given = communicators(kind, 4)

    def part(rank: int) -> Any:
        ranks = ranks_of(kind, given[rank], SIZES[rank])
        assert (ranks.rank, ranks.count, ranks.sizes) == (rank, 4, SIZES)
        assert (ranks.offset, ranks.size, ranks.length) == (STARTS[rank], SIZES[rank], LENGTH)
        return of_rank(ranks, lambda a: slice_of(device, a, rank), device.asarray)

    assert_joins(device, on_ranks(4, part), of_one(device.asarray))


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("kind", ["mpi", "nccl"])
def test_any_number_of_ranks(device: Any, count: int, kind: str) -> None:
    x = logits((2, LENGTH), "float32")
    sizes, given = distributed.slices(LENGTH, count), communicators(kind, count)

    def part(rank: int) -> Any:
        ranks = ranks_of(kind, given[rank], sizes[rank])
        return distributed.softmax(slice_of(device, x, rank, sizes), ranks)

    assert_joins(device, on_ranks(count, part), cs.softmax(device.asarray(x)))


@pytest.mark.parametrize("length", [5, 700, 1024])
def test_rows_that_are_not_divided(device: Any, length: int) -> None:
    x = logits((2, length), "float32")
    sizes, given = (0, 0, length), communicators("mpi", 3)

    def part(rank: int) -> Any:
        ranks = ranks_of("mpi", given[rank], sizes[rank])
        mine = slice_of(device, x, rank, sizes)
        return distributed.softmax(mine, ranks), distributed.logsumexp(mine, ranks)

    whole = device.asarray(x)
    results = on_ranks(3, part)
    np.testing.assert_array_equal(
        bits(device.asnumpy(results[2][0])), bits(device.asnumpy(cs.softmax(whole)))
    )
    assert_joins(device, [r[1] for r in results], cs.logsumexp(whole))


def test_rows_along_another_axis_and_results_in_place(device: Any) -> None:
    x = logits((2, 3, LENGTH), "float32")
    whole = cs.softmax(device.asarray(x))
    given = communicators("mpi", 4)

    def part(rank: int) -> Any:
        ranks = ranks_of("mpi", given[rank], SIZES[rank])
        mine = slice_of(device, x, rank).transpose(2, 0, 1)
        assert distributed.softmax(mine, ranks, axis=0, out=mine) is mine
        return mine.transpose(1, 2, 0)

    assert_joins(device, on_ranks(4, part), whole)


def test_gradient_over_the_logits_and_weights_of_classes(device: Any) -> None:
    x, target = logits((3, LENGTH), "float32"), np.array([0, 3000, LENGTH - 1])
    weight = np.random.default_rng(0).random(LENGTH, np.float32)
    given = communicators("mpi", 4)

    def part(rank: int) -> Any:
        ranks = ranks_of("mpi", given[rank], SIZES[rank])
        mine, loss = slice_of(device, x, rank), device.asarray(np.zeros(3, np.float32))
        values, kinds = device.asarray(target), device.asarray(weight)
        out = (loss, mine)
        options: Any = {"weight": kinds, "grad": True, "softcap": 30.0}
        return distributed.cross_entropy(mine, values, ranks, out=out, **options)

    whole = cs.cross_entropy(
        *map(device.asarray, (x, target)),
        weight=device.asarray(weight),
        reduction="none",
        grad=True,
        softcap=30.0,
    )
    assert_joins(device, on_ranks(4, part), whole)


@pytest.mark.parametrize("length", [9, LENGTH])
def test_selections_are_the_same_on_all_ranks(device: Any, length: int) -> None:
    """Rows along another axis, of few elements or of slices with fewer than are selected."""
    x, k = logits((2, length, 3), "float32"), min(length, 60)
    sizes = (0, 0, length) if length <= 1024 else (0, length - 77, 77)
    given, start = communicators("mpi", 3), tuple(itertools.accumulate(sizes, initial=0))
    values, indices = cs.topk_softmax(
        device.asarray(x.transpose(0, 2, 1).copy()), k, dtype="float64"
    )
    drawn = cs.sample(device.asarray(x.transpose(0, 2, 1).copy()), seed=1)

    def part(rank: int) -> Any:
        ranks = ranks_of("mpi", given[rank], sizes[rank])
        mine = device.asarray(x[:, start[rank] : start[rank + 1]].transpose(0, 2, 1).copy())
        mine = mine.transpose(0, 2, 1)
        out = tuple(device.asarray(np.zeros((2, k, 3), kind)) for kind in (np.float64, np.int64))
        assert distributed.topk_softmax(mine, k, ranks, axis=1, out=out) == out
        gates, chosen = distributed.topk_softmax(mine, 3, ranks, 1, "topk")
        assert gates.shape == chosen.shape == (2, 3, 3)
        np.testing.assert_allclose(device.asnumpy(gates).sum(axis=1), 1, rtol=1e-6)
        return *(a.transpose(0, 2, 1) for a in out), distributed.sample(mine, ranks, 1, seed=1)

    for found in on_ranks(3, part):
        if isinstance(found, BaseException):
            raise found
        for a, b in zip(found, (values, indices, drawn), strict=True):
            np.testing.assert_array_equal(bits(device.asnumpy(a)), bits(device.asnumpy(b)))


@pytest.mark.parametrize("op", ["softmax", "log_softmax", "logsumexp", "softmax_vjp",
                                "log_softmax_vjp", "logsumexp_vjp"])  # fmt: skip
@pytest.mark.parametrize("names", [("scale",), ("bias", "mask"), ("scale", "mask", "causal")])
def test_scaled_masked_and_causal_rows(device: Any, op: str, names: tuple[str, ...]) -> None:
    """Two batches of 3 queries; the mask hides keys alike for each, and all in the second batch."""
    x, v = logits((2, 3, LENGTH), "float32"), logits((2, 3, LENGTH), "float32", seed=1)
    mask = np.random.default_rng(0).random((2, 1, LENGTH)) < 0.7
    mask[1] = False
    given: dict[str, Any] = {"scale": -0.3, "bias": v[:, :1], "mask": mask, "causal": True}
    of_results = op in ("softmax_vjp", "log_softmax_vjp")  # which have no bias
    given = {name: given[name] for name in names if not (of_results and name == "bias")}
    inputs = (x, *({"logsumexp_vjp": [v[..., 0]]}.get(op, [v]) if "vjp" in op else []))

    def call(of: Any, array: Callable[[np.ndarray], Any], *ranks: distributed.Ranks) -> Any:
        rest = {
            name: value if isinstance(value, bool | float) else array(value)
            for name, value in given.items()
        }
        arrays = [array(a) if a.ndim == 3 else device.asarray(a) for a in inputs]
        return getattr(of, op)(*arrays, *ranks, **rest)

    communicators_, counted = communicators("nccl", 4), {"scaled": "scale", "biased": "bias"}

    def part(rank: int) -> Any:
        ranks = ranks_of("nccl", communicators_[rank], SIZES[rank])
        communicators_[rank].calls.clear()
        return call(distributed, lambda a: slice_of(device, a, rank), ranks)

    assert_joins(device, on_ranks(4, part), call(cs, device.asarray))
    options: Any = {key: name in given for key, name in counted.items()}
    expected = distributed.gathered_bytes(op, 6, SIZES, "float32", padded=True, **options)
    assert communicators_[0].calls == [(expected, 1, 0)]


def test_dtype_of_the_result(device: Any) -> None:
    x = logits((2, LENGTH), "float16")
    given = communicators("mpi", 4)

    def part(rank: int) -> Any:
        ranks, mine = ranks_of("mpi", given[rank], SIZES[rank]), slice_of(device, x, rank)
        named = distributed.softmax(mine, ranks, dtype="float32")
        out = device.asarray(np.zeros(mine.shape, np.float32))
        distributed.softmax(mine, ranks, out=out)
        return named, out

    expected = cs.softmax(device.asarray(x), dtype="float32")
    assert_joins(device, on_ranks(4, part), (expected, expected))


def test_no_rows(device: Any) -> None:
    given = communicators("nccl", 4)

    def part(rank: int) -> Any:
        ranks = ranks_of("nccl", given[rank], SIZES[rank])
        return distributed.softmax(device.asarray(np.zeros((0, SIZES[rank]))), ranks).shape

    assert on_ranks(4, part) == [(0, size) for size in SIZES]


# --------------------------------------------------------------------------------- what is gathered


@pytest.mark.parametrize("op", FUNCTIONS)
@pytest.mark.parametrize("kind", ["mpi", "nccl", "cupyx"])
def test_bytes_are_those_of_the_formula(device: Any, op: str, kind: str) -> None:
    of_rank, _ = cases("float32")[op]
    given = communicators(kind, 4)

    def part(rank: int) -> Any:
        ranks = ranks_of(kind, given[rank], SIZES[rank])
        given[rank].calls.clear()
        of_rank(ranks, lambda a: slice_of(device, a, rank), device.asarray)
        return given[rank].calls

    # As `cases` has them.
    options: Any = {"cross_entropy": {"smooth": True}, "topk_softmax": {"k": K}}.get(op, {})
    expected = distributed.gathered_bytes(op, 3, SIZES, "float32", padded=kind != "mpi", **options)
    of_kind = {
        "mpi": [("Allgather", 4 * 16), ("Allgatherv", expected)],
        "nccl": [(expected, 1, 0)],  # bytes, ncclUint8, the null stream
        "cupyx": [expected],
    }
    assert on_ranks(4, part) == [of_kind[kind]] * 4


def test_launches_do_not_grow_with_the_ranks(emulated: Any) -> None:
    from cusoftmax.runtime import pieces

    counted: dict[int, int] = {}
    for count in (2, 7):
        sizes, given = distributed.slices(LENGTH, count), communicators("mpi", count)
        launched: list[Any] = []
        launch = pieces._launch

        def counting(*args: Any, launched: list[Any] = launched, launch: Any = launch) -> None:
            launched.append(args)
            launch(*args)

        def part(rank: int, sizes: Any = sizes, given: Any = given) -> None:
            mine = emulated.asarray(np.zeros((1, sizes[rank]), np.float32))
            distributed.logsumexp(mine, ranks_of("mpi", given[rank], sizes[rank]))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pieces, "_launch", counting)
            assert on_ranks(count, part) == [None] * count
        counted[count] = len(launched)
    assert counted[2] <= 2 * 5 and counted[7] <= 7 * 5


def test_slices() -> None:
    assert distributed.slices(LENGTH, 4) == (2048, 2048, 2048, 77)
    assert distributed.slices(1024, 3) == (1024, 0, 0)
    assert distributed.slices(0, 2) == (0, 0)
    for length, count in itertools.product((1, 1023, 4096, 50257, 128256), (1, 3, 8, 1024)):
        made = distributed.slices(length, count)
        assert len(made) == count and sum(made) == length
        starts = itertools.accumulate(made, initial=0)
        assert all(start % 1024 == 0 or start == length for start in starts)
    for wrong, error in (((-1, 2), ValueError), ((8, 0), ValueError), ((2.0, 1), TypeError)):
        with pytest.raises(error, match="slices: "):
            distributed.slices(*wrong)  # type: ignore[arg-type]


def test_gathered_bytes_of_smoothed_probabilities() -> None:
    for weight in (False, True):
        plain, smoothed = (
            distributed.gathered_bytes(
                "cross_entropy", 2, (1024, 5), "float32", soft=True, weight=weight, smooth=smooth
            )
            for smooth in (False, True)
        )
        assert plain == smoothed > 0


def test_gathered_bytes_of_wrong_arguments() -> None:
    good: list[Any] = ["softmax", 2, (1024, 5), "float32"]
    for place, value, error in (
        (0, "sofmax", ValueError), (1, 2.0, TypeError), (2, (1000, 5000), ValueError),
        (2, 3, TypeError), (3, "complex64", TypeError), (3, 7, TypeError),
    ):  # fmt: skip
        with pytest.raises(error, match=r"gathered_bytes: "):
            distributed.gathered_bytes(*good[:place], value, *good[place + 1 :])
    for k, error in ((None, TypeError), (65, ValueError), (0, ValueError)):
        with pytest.raises(error, match=rf"gathered_bytes: k={k}"):
            distributed.gathered_bytes("topk_softmax", *good[1:], k=k)


# ------------------------------------------------------------------------------------------- errors


def outcomes(
    device: Any, call: Callable[[int, distributed.Ranks, Any], Any], kind: str = "mpi"
) -> list[Any]:
    """Return what a call returns or raises on each of four ranks, and check that all can go on."""
    x, given = logits((2, LENGTH), "float32"), communicators(kind, 4)

    def part(rank: int) -> Any:
        control = None if kind == "mpi" else controls[rank]
        ranks = distributed.Ranks(given[rank], SIZES[rank], control=control)
        mine = slice_of(device, x, rank)
        try:
            found = call(rank, ranks, mine)
        except BaseException as error:
            found = error
        again = distributed.logsumexp(mine, ranks)  # ranks that met once more
        np.testing.assert_array_equal(device.asnumpy(again), expected)
        return found

    controls = communicators("mpi", 4)
    expected = device.asnumpy(cs.logsumexp(device.asarray(x)))
    return on_ranks(4, part)


@pytest.mark.parametrize("kind", ["mpi", "nccl"])
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda r, x: distributed.softmax(x[:, 1:], r), ValueError, "this rank's slice has 3072"),
        (lambda r, x: distributed.softmax("x", r), TypeError, "is a str"),
        (lambda r, x: distributed.softmax(x, r, axis=5), AxisError, "axis 5"),
        (lambda r, x: distributed.softmax(x, r, out=x[:1]), ValueError, "give it shape"),
        (lambda r, x: distributed.softmax(x, r, out=(x, x)), TypeError, "out has 2 arrays"),
        (lambda r, x: distributed.softmax(x, r, "float16", out=x), TypeError, "axis='float16'"),
        (lambda r, x: distributed.softmax(x, r, -1, "float16", x), TypeError, "out has dtype"),
        (lambda r, x: distributed.softmax(x, r, dtype="int8"), TypeError, "int8"),
        (lambda r, x: distributed.softmax_vjp(x, x[:1], r), ValueError, "dy has shape"),
        (lambda r, x: distributed.topk_softmax(x, 65, r), ValueError, "k=65"),
        (lambda r, x: distributed.topk_softmax(x, 2, r, out=(x, x)), ValueError, "out has shape"),
        (lambda r, x: distributed.sample(x, r, seed=-1), ValueError, "seed=-1"),
        (lambda r, x: distributed.sample(x, r, seed=0, out=x), ValueError, "give it shape"),
    ],
)
def test_a_rank_that_fails_gives_all_an_error(
    device: Any, kind: str, wrong: Any, error: type[Exception], message: str
) -> None:
    def call(rank: int, ranks: distributed.Ranks, x: Any) -> Any:
        return wrong(ranks, x) if rank == 2 else distributed.softmax(x, ranks)

    found = outcomes(device, call, kind)
    with pytest.raises(error, match=message):
        raise found[2]
    for rank in (0, 1, 3):
        assert isinstance(found[rank], distributed.RankError) and found[rank].rank == 2
        assert "rank 2 failed, so nothing was computed on any rank: " in str(found[rank])
        assert error.__name__ in str(found[rank])


def test_errors_name_the_function_that_was_called(device: Any) -> None:
    ranks = distributed.Ranks(None, 4)
    x, none = (device.asarray(np.zeros(shape, np.float32)) for shape in ((2, 4), ()))
    for call, kind, message in (
        (lambda: distributed.softmax(x, ranks, axis=7), AxisError, "softmax: axis 7 is out of"),
        (lambda: distributed.softmax("x", ranks), TypeError, "softmax: x is a str"),
        (lambda: distributed.logsumexp(x, ranks, dtype="int8"), TypeError, "logsumexp: dtype=int8"),
        (lambda: distributed.softmax_vjp(x, x[:1], ranks), ValueError, "softmax_vjp: dy has shape"),
        (lambda: distributed.sample(x, ranks, seed=-1), ValueError, "sample: seed=-1"),
        (lambda: distributed.topk_softmax(x, 9, ranks), ValueError, "topk_softmax: k=9"),
        (lambda: distributed.softmax(x, ranks, out=x[:, ::-1]), ValueError,
         "softmax: the elements of a row of out are"),
        (lambda: distributed.softmax(x, ranks, mask=x), TypeError, "softmax: mask has dtype"),
        (lambda: distributed.softmax(x, ranks, scale=1e30), ValueError, "softmax: scale=1e"),
        (lambda: distributed.softmax(x, ranks, 0, causal=True), ValueError, "softmax: the array"),
        (lambda: distributed.softmax(none, ranks), ValueError, "softmax: x has no dimensions"),
    ):  # fmt: skip
        with pytest.raises(kind, match=f"^{message}"):
            call()

    def wrong(rank: int, ranks: distributed.Ranks, x: Any) -> Any:
        return distributed.softmax(x, ranks, axis=7 if rank == 2 else -1)

    found = outcomes(device, wrong)
    assert isinstance(found[2], AxisError) and str(found[2]).startswith("softmax: axis 7")
    assert "on any rank: AxisError: softmax: axis 7 is out of bounds" in str(found[0])


def test_a_rank_that_is_interrupted_or_has_no_memory_gives_all_an_error(
    device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = nodes.partial
    for error in (KeyboardInterrupt(), MemoryError("no room")):

        def failing(x: Any, op: str, *others: Any, error: Any = error, **given: Any) -> Any:
            if given["offset"] == STARTS[2] and op == "softmax":
                raise error
            return partial(x, op, *others, **given)

        monkeypatch.setattr(nodes, "partial", failing)
        # Rank 1 has no elements, and starts where rank 2 does.
        found = outcomes(device, lambda _, ranks, x: distributed.softmax(x, ranks))
        assert found[1] is error and found[2] is error
        for rank in (0, 3):
            assert isinstance(found[rank], distributed.RankError) and found[rank].rank == 1


@pytest.mark.parametrize("kind", ["mpi", "nccl"])
@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda r, x: distributed.softmax(x[:1], r), r"an array of \(2,\).* an array of \(1,\)"),
        (lambda r, x: distributed.log_softmax(x, r), "softmax of .* log_softmax of "),
        (lambda r, x: distributed.softmax(x, r, dtype="float64"), "float32, float32.*, float64"),
        (lambda r, x: distributed.logsumexp(x, r), "logsumexp of "),
        (lambda r, x: distributed.softmax(x, r, scale=2.0), r"scale=2\.0"),
        (lambda r, x: distributed.softmax(x, r, causal=True), "as softmax_causal_partial"),
    ],
)
def test_calls_that_differ(device: Any, kind: str, other: Any, words: str) -> None:
    def call(rank: int, ranks: distributed.Ranks, x: Any) -> Any:
        return other(ranks, x) if rank == 3 else distributed.softmax(x, ranks)

    for error in outcomes(device, call, kind):
        assert isinstance(error, ValueError) and "the calls of the ranks differ" in str(error)
        with pytest.raises(ValueError, match=rf"{words}.* on rank 3; make the same call"):
            raise error


def test_options_that_differ(device: Any) -> None:
    target = device.asarray(np.array([1, 2]))

    def call(rank: int, ranks: distributed.Ranks, x: Any) -> Any:
        return distributed.cross_entropy(x, target, ranks, z_loss=0.5 if rank == 1 else 0.25)

    for error in outcomes(device, call):
        with pytest.raises(ValueError, match=r"z_loss=0.25.* on rank 0, .*z_loss=0.5.* on rank 1"):
            raise error

    def drawn(rank: int, ranks: distributed.Ranks, x: Any) -> Any:
        return distributed.sample(x, ranks, seed=7 if rank == 1 else 9)

    for error in outcomes(device, drawn):
        with pytest.raises(ValueError, match=r"seed=9.* on rank 0, .*seed=7.* on rank 1"):
            raise error


def test_slices_within_a_chunk_are_an_error_on_all_ranks(device: Any) -> None:
    given = communicators("mpi", 2)

    def part(rank: int) -> Any:
        ranks = distributed.Ranks(given[rank], (1000, 3000)[rank])
        x = device.asarray(np.zeros((1, ranks.size), np.float32))
        return distributed.softmax(x, ranks)

    for error in on_ranks(2, part):
        with pytest.raises(ValueError, match="the nearest boundaries are 0 and 1024"):
            raise error


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [(-1, ValueError, "size=-1"), (2.0, TypeError, "size=2.0"), (2**63, ValueError, "size=")],
)
def test_a_wrong_size_of_a_rank(size: Any, error: type[Exception], message: str) -> None:
    given = communicators("mpi", 3)
    found = on_ranks(3, lambda rank: distributed.Ranks(given[rank], size if rank == 1 else 1024))
    with pytest.raises(error, match=message):
        raise found[1]
    assert all(isinstance(found[rank], distributed.RankError) for rank in (0, 2))


def test_ranks_without_elements() -> None:
    given = communicators("mpi", 2)
    for error in on_ranks(2, lambda rank: distributed.Ranks(given[rank], 0)):
        with pytest.raises(ValueError, match="no rank has an element"):
            raise error


def test_control_of_other_ranks() -> None:
    given, controls = communicators("nccl", 2), communicators("mpi", 2)

    def part(rank: int) -> Any:
        return distributed.Ranks(given[rank], 1024, control=controls[1 - rank])

    for error in on_ranks(2, part):
        with pytest.raises(ValueError, match=r"control has this as rank \d of 2, and communicator"):
            raise error


def test_what_is_no_communicator(device: Any) -> None:
    x = device.asarray(np.zeros((2, 4), np.float32))
    alone = distributed.Ranks(None, 4)
    for call, message in (
        (lambda: distributed.Ranks(3, 4), "communicator=3 is not accepted; give a communicator of"),
        (lambda: distributed.Ranks(None, 4, control=3), "control=3 is not accepted"),
        (lambda: distributed.Ranks(None, 4, control=None, cuda_aware=1), "cuda_aware=1"),
        (lambda: distributed.softmax(x, None), "ranks=None is not accepted; give the Ranks"),
        (lambda: distributed.softmax(x, 4), "ranks=4 is not accepted"),
    ):
        with pytest.raises(TypeError, match=message):
            call()
    assert distributed.softmax(x, alone).shape == (2, 4)


def test_every_function_is_tried() -> None:
    others = {"RankError", "Ranks", "gathered_bytes", "slices"}
    assert {*FUNCTIONS, *others} == set(distributed.__all__)
