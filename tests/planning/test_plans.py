"""Plans: none changes by accident, none depends on the batch where the bits would, all fit the GPU.

`golden_plans.json` holds the plans of a grid of problems. After a change that is meant, write it
anew with ``python -m tests.planning.test_plans --record``, and read the difference before you
commit it.
"""

from __future__ import annotations

import copy
import itertools
import json
import pathlib
import pickle
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.static.tuning_problems import tuned_to
from cusoftmax.operations.table import OPERATIONS
from cusoftmax.planning.builder import PlanBuilder
from cusoftmax.planning.device import ARCHITECTURES, PORTABLE_CLUSTER, DeviceSpec
from cusoftmax.planning.plan import Kernel, Plan
from cusoftmax.planning.planner import plan
from cusoftmax.planning.prepare import problem_for
from cusoftmax.planning.staging import excess_sectors, stepping_operands
from tests import support

GOLDEN = pathlib.Path(__file__).with_name("golden_plans.json")
OPS = ("softmax", "softmax_vjp")
DTYPES = ("float16", "bfloat16", "float32", "float64")
MIXED = ("int32", "bool", "float16")  # inputs of another dtype than the output
GRID = (
    OPS,
    ("float16", "float32", "float64"),
    (7, 1000, 4097, 40000, 50257, 131072, 1 << 20),
    (1, 4096),
    ("sm_75", "sm_90"),
    (-1, 0),
)
MOST_BINARIES = 60  # "a few dozen binaries per operation and dtype"
ROW_PATTERNS_OF_MANY_CHUNKS = ("block", "stream", "split")


def planned(op: str, dtype: str, n: int, rows: int, arch: str, axis: int = -1) -> Plan:
    shape = (rows, n) if axis == -1 else (n, rows)
    out = "float32" if dtype == "float16 to float32" else None
    return plan(problem_for(op, shape, dtype.split()[0], axis, out), DeviceSpec.known(arch))


# ---- golden plans ----


def told(made: Plan) -> str:
    """Return all of a plan that a launch depends on, on one line."""
    launches = [
        f"{s.kernel.name} {s.kernel['CSM_LANES']}x{s.kernel['CSM_ITEMS']} "
        f"<<<{s.grid}, {s.block}, {s.shared_bytes}>>> of {s.kernel.max_threads}"
        for s in made.launches
    ]
    return "; ".join([*launches, f"workspace {made.workspace_bytes}"])


def golden() -> dict[str, str]:
    """Return the plans of the grid as they are made now."""
    return {
        f"{op} {dtype} n={n} rows={rows} {arch} axis={axis}": told(
            planned(op, dtype, n, rows, arch, axis)
        )
        for op, dtype, n, rows, arch, axis in itertools.product(*GRID)
    }


def test_plans_are_the_golden_ones() -> None:
    known, now = json.loads(GOLDEN.read_text(encoding="utf-8")), golden()
    assert known.keys() == now.keys()
    changed = [f"{key}: {known[key]} → {now[key]}" for key in known if known[key] != now[key]]
    assert not changed, f"{len(changed)} plans changed:\n" + "\n".join(changed[:10])


def test_plans_can_be_copied_and_pickled() -> None:
    for n, rows in itertools.product((7, 4097, 1 << 20), (1, 4096)):
        made = planned("softmax", "float32", n, rows, "sm_90")
        assert copy.deepcopy(made) == pickle.loads(pickle.dumps(made)) == made


def test_golden_plans_cover_every_pattern() -> None:
    text = GOLDEN.read_text(encoding="utf-8")
    for op, pattern in itertools.product(OPS, ("group", "block", "stream", "split0", "column1")):
        assert f"csm_{op}_{pattern}_" in text, f"no {pattern} for {op}"


# ---- sectors ----


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_row_length_moves_more_sectors_than_it_must(op: str, dtype: str) -> None:
    for n in itertools.chain(range(1, 1100), range(1101, 98304, 997)):
        problem = problem_for(op, (10**6, n), dtype, -1)
        device = DeviceSpec.known("sm_90")
        made = plan.__wrapped__(problem, device)
        if made.launches[0].kernel["CSM_STAGED"] != "0":
            continue
        builder = PlanBuilder(problem, device)
        lanes = int(made.launches[0].kernel["CSM_LANES"])
        for _, _, size in stepping_operands(builder):
            assert excess_sectors(n * size, n * size, lanes, lanes * made.vector * size) <= 0.05, n


# ---- sums ----


@pytest.mark.parametrize("op", OPERATIONS)
def test_float_sums_of_a_lane_stay_below_what_they_start_at(op: str) -> None:
    """Chains of at most 8 exponentials, and 32 of a lane: kAbove in numeric/exp.cuh."""
    for n in (7, 100, 1000, 5000, 40000, 300000):
        for kind in ("float16", "float32"):
            made = plan(problem_for(op, (4096, n), kind), DeviceSpec.known("sm_90"))
            if made.pattern not in ("group", "block", "stream", "split"):
                continue
            for launch in made.launches:
                if launch.kernel["CSM_ACC"] == "float":
                    items, chains = (int(launch.kernel[f"CSM_{x}"]) for x in ("ITEMS", "GROUP"))
                    assert items <= 32 and items <= 8 * chains, (launch.kernel.name, n)


# ---- properties ----

lengths = st.one_of(
    st.integers(1, 2**20),
    # Each side of the multiples of a chunk, where everything changes.
    st.builds(
        lambda power, factor, step: max(1, (factor << power) + step),
        st.integers(0, 14),
        st.integers(1, 64),
        st.integers(-1, 1),
    ),
)
row_counts = st.one_of(st.integers(1, 5000), st.sampled_from((1, 2, 63, 1000, 2**31 - 1, 2**40)))
problems = given(
    op=st.sampled_from(OPS),
    dtype=st.sampled_from((*DTYPES, "int32", "float16 to float32")),
    n=lengths,
    rows=row_counts,
    other_rows=row_counts,
    arch=st.sampled_from([f"sm_{a}" for a in ARCHITECTURES]),
    other_arch=st.sampled_from([f"sm_{a}" for a in ARCHITECTURES]),
)
repeatable = settings(derandomize=True, deadline=None, max_examples=600, database=None)


def order_of_summation(made: Plan) -> tuple[object, ...]:
    """Return what the bits of a row depend on, apart from the source of the kernels."""
    kernel = made.launches[0].kernel
    two = kernel["CSM_FIRST_ITEMS"]  # of the first of two chunks of a lane; else 0
    many = made.pattern in ROW_PATTERNS_OF_MANY_CHUNKS or two != "0"
    family = "long" if many else made.pattern
    lanes = "" if family == "column" else kernel["CSM_ORDER_LANES"]
    group = "" if family == "column" else kernel["CSM_GROUP"]
    items = kernel["CSM_ITEMS"] if two == "0" else two
    items = "" if family == "group" else items  # they hold all of the row
    return (family, made.chunk, lanes, group, items, kernel["CSM_ACC"])


@repeatable
@problems
@example("softmax", "float32", 131072, 1, 5000, "sm_90", "sm_75")
@example("softmax_vjp", "float64", 1 << 20, 1, 5000, "sm_90", "sm_75")
def test_order_of_summation_does_not_depend_on_rows_or_gpu(
    op: str, dtype: str, n: int, rows: int, other_rows: int, arch: str, other_arch: str
) -> None:
    for axis in (-1, 0):
        if axis == 0 and min(rows, other_rows) == 1:
            continue  # one row down a strided axis is a contiguous row: another layout
        one = planned(op, dtype, n, rows, arch, axis)
        other = planned(op, dtype, n, other_rows, other_arch, axis)
        assert order_of_summation(one) == order_of_summation(other)


@repeatable
@problems
def test_plans_fit_the_gpu(
    op: str, dtype: str, n: int, rows: int, other_rows: int, arch: str, other_arch: str
) -> None:
    device = DeviceSpec.known(arch)
    for axis in (-1, 0):
        made = planned(op, dtype, n, rows, arch, axis)
        assert made.launches
        assert (made.workspace_bytes > 0) == (len(made.launches) > 1)
        for step in made.launches:
            assert 1 <= step.grid < 2**31
            assert step.grid % step.kernel.cluster == 0
            assert 32 <= step.block <= step.kernel.max_threads <= 1024
            assert step.block % 32 == 0
            assert step.shared_bytes <= device.shared_per_block
            assert step.kernel.cluster in (1, 2, 4, 8, 16)
            assert step.kernel.cluster <= device.max_cluster
            if step.kernel.cluster > PORTABLE_CLUSTER:
                together = 2 * (step.shared_bytes + device.reserved_shared)
                share = (
                    together <= device.shared_per_sm and 2 * step.block <= step.kernel.max_threads
                )
                with tuned_to("CLUSTER_BLOCKS", PORTABLE_CLUSTER):
                    smaller = planned(op, dtype, n, rows, arch, axis)
                # Its blocks share multiprocessors, or the row cannot be staged whole otherwise.
                staged = smaller.launches[0].kernel["CSM_STAGED"] != "0"
                if (staged and smaller.pattern == "block") or step.kernel["CSM_STAGED"] == "0":
                    assert share and step.grid > 2 * device.sm_count
            parks = made.pattern == "stream" and step.kernel["CSM_PARKS"] != "0"
            if made.pattern in ("split", "stream", "column") and not parks:
                # An aligned subtree of the sum each: only then is the tree the same for all.
                assert (step.block & (step.block - 1)) == 0


@repeatable
@problems
def test_enough_blocks_for_the_rows_and_no_idle_ones(
    op: str, dtype: str, n: int, rows: int, other_rows: int, arch: str, other_arch: str
) -> None:
    made = planned(op, dtype, n, min(rows, 2**31 - 1), arch)
    step = made.launches[0]
    if made.pattern == "group":
        rows_of_a_block = step.block // int(step.kernel["CSM_LANES"])
        assert (step.grid - 1) * rows_of_a_block < made.rows
    elif made.pattern in ("block", "stream"):
        assert step.grid // step.kernel.cluster <= made.rows
        of_warp = made.chunk * (1 if step.kernel["CSM_FIRST_ITEMS"] == "0" else 2)
        held = of_warp * step.block // 32 * step.kernel.cluster
        if made.pattern == "block" and step.kernel["CSM_PARKS"] == "0":
            assert held >= n


@pytest.mark.parametrize(
    ("op", "dtype", "of_a_thread"),
    [("softmax", "float16", 8), ("softmax", "float32", 8), ("cross_entropy_grad", "float32", 32)],
)
def test_blocks_take_several_spans_of_many_rows(op: str, dtype: str, of_a_thread: int) -> None:
    """Losses of 32 rows are computed together, and what a block does once is done for 8."""
    for rows in (1000, 100_000):
        made = planned(op, dtype, 1001, rows, "sm_90")
        (step,) = made.launches
        assert (made.pattern, step.kernel["CSM_STAGED"] != "0") == ("group", True)
        each = of_a_thread if rows == 100_000 else 1
        assert step.grid == -(-rows // (step.block // 32 * each))


# ---- binaries ----


def widths() -> Iterator[int]:
    """Yield row lengths up to 131072: all short ones, then enough to meet every remainder."""
    yield from range(1, 2049)
    yield from range(2049, 131072, 127)
    for power in range(11, 18):
        yield from range((1 << power) - 16, min((1 << power) + 17, 131073))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_few_binaries_cover_all_widths(op: str, dtype: str) -> None:
    kernels: set[Kernel] = set()
    for n in dict.fromkeys(widths()):
        for rows in (1, 3, 4096):
            kernels.update(step.kernel for step in planned(op, dtype, n, rows, "sm_90").launches)
    assert len(kernels) <= MOST_BINARIES
    assert len({kernel.name for kernel in kernels}) == len(kernels)


def test_a_name_means_one_binary() -> None:
    """CuPy finds a compiled kernel by source and options; a person finds it by name."""
    known: dict[str, Kernel] = {}
    dtypes = (*DTYPES, *MIXED, "float16 to float32")
    for op, dtype, n, rows, arch in itertools.product(
        OPS,
        dtypes,
        (1, 7, 8, 33, 1000, 4097, 50257, 70000, 1 << 20),
        (1, 40, 5000),
        ("sm_75", "sm_90"),
    ):
        for axis in (-1, 0):
            for step in planned(op, dtype, n, rows, arch, axis).launches:
                assert known.setdefault(step.kernel.name, step.kernel) == step.kernel


# ---- purity ----


def test_planning_imports_no_cupy() -> None:
    script = (
        "import sys\n"
        "import cusoftmax as cs\n"
        "cs.explain('softmax', shape=(4, 70000), dtype='float16', axis=-1, arch='sm_90')\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('cupy', 'cuda', 'cupy_backends')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=pathlib.Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "[]"


def test_nodes_of_columns_fit_on_the_chip() -> None:
    """Few columns have the most walkers of a block, and second-order products the largest nodes."""
    for op, operation in OPERATIONS.items():
        if "column" in operation.patterns:
            for arch in ARCHITECTURES:
                device = DeviceSpec.known(arch)
                for n in (2000, 4000):
                    made = plan(problem_for(op, (4, n, 2), "float32", 1), device)
                    assert made.pattern == "column"
                    assert all(s.shared_bytes <= device.shared_per_block for s in made.launches)


def test_columns_stream_where_the_cache_holds_what_is_read() -> None:
    """On each side of every threshold: of A100, whose blocks form no clusters."""

    def kind_of(n: int, columns: int, arch: str = "sm_80", op: str = "softmax") -> str:
        made = plan(problem_for(op, (n, columns), "float16", 0), DeviceSpec.known(arch))
        return f"{support.kind(made)} {made.launches[0].block}"

    many = 109 * 16
    assert kind_of(1024, many) == "column 256"
    assert kind_of(1025, many) == "column stream parked 256"
    assert kind_of(4247, many) == "column stream parked 256"  # 0.7 of 40 MiB for two blocks
    assert kind_of(4248, many) == "column stream parked 512"
    assert kind_of(15170, many) == "column stream parked 512"
    assert kind_of(15171, many) == "column long 128"  # 1.25 of it for one
    assert kind_of(4096, many - 16) == "column long 128"  # a block for each multiprocessor
    assert kind_of(4096, many, op="logsumexp") == "column long 128"  # nothing is read again
    assert kind_of(4096, many, op="softmax_masked").startswith("column long")
    assert kind_of(4096, 1 << 16, "sm_90").startswith("column x")
    with tuned_to("COLUMN_STREAM_PERCENT", 0):
        assert kind_of(1025, many) == kind_of(4248, many) == "column long 128"


def test_a_plan_is_made_once_and_again_the_same() -> None:
    first = planned("softmax", "float32", 5000, 3, "sm_90")
    assert planned("softmax", "float32", 5000, 3, "sm_90") is first
    plan.cache_clear()
    again = planned("softmax", "float32", 5000, 3, "sm_90")
    assert again == first and again is not first
    assert hash(again) == hash(first)


def test_nothing_to_do_plans_nothing() -> None:
    for rows, n in ((0, 5), (5, 0), (0, 0)):
        made = planned("softmax", "float32", n, rows, "sm_90")
        assert made.pattern == "empty" and not made.launches and not made.workspace_bytes


if __name__ == "__main__":
    if sys.argv[1:] != ["--record"]:
        sys.exit("usage: python -m tests.planning.test_plans --record")
    GOLDEN.write_text(json.dumps(golden(), indent=0) + "\n", encoding="utf-8")
    print(f"recorded {len(golden())} plans in {GOLDEN}")
