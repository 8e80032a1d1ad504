"""What the planner of every pattern needs: numbers derived from a problem, kernels and plans."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from cusoftmax.operations.dtypes import ITEMSIZE, compute_dtype
from cusoftmax.operations.operation import PIECE, REDUCTIONS, Operation
from cusoftmax.operations.table import KERNELS
from cusoftmax.planning import tuning
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import WARP, Kernel, Launch, Plan, make_kernel
from cusoftmax.planning.problem import Operand, Problem

_SPAN_PATTERNS = {"group", "block", "stream", "split"}  # that stage the span of a whole block
ACCESS_BYTES = 16  # the widest global access of a thread


def computes_in(problem: Problem) -> str:
    """Return the dtype of a problem's arithmetic."""
    operation = KERNELS[problem.op]
    dtypes = [o.dtype for o in problem.operands]
    read = [
        d for i, d in enumerate(dtypes[: len(operation.read)]) if operation.affects_compute_dtype(i)
    ]
    return compute_dtype(read, dtypes[operation.precision])


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def power_of_two(at_least: int) -> int:
    return 1 << max(0, at_least - 1).bit_length()


def power_of_two_below(at_most: int) -> int:
    return 1 << max(1, at_most).bit_length() - 1


class PlanBuilder:
    """Derives the numbers that all patterns need, and constructs kernels and plans from them."""

    def __init__(self, problem: Problem, device: DeviceSpec) -> None:
        self.problem = problem
        self.device = device
        self.operation: Operation = KERNELS[problem.op]
        dtypes = [o.dtype for o in problem.operands]
        out = dtypes[self.operation.precision]
        self.acc = computes_in(problem)
        self.acc_bytes = ITEMSIZE[self.acc]
        self.acc_words = self.acc_bytes // 4
        self.fast_exp = ITEMSIZE[out] < self.acc_bytes == 4  # results of 16 bits: a merge is short
        # The operands with a value for each element, and the sizes of those.
        along = [(i, o) for i, o in enumerate(problem.operands) if self.operation.along_rows(i)]
        self.along = [(o, ITEMSIZE[o.dtype]) for _, o in along]
        # The widest access for these dtypes in any layout. It is part of the order of summation.
        self.group = ACCESS_BYTES // max(size for _, size in self.along)
        # Inputs that repeat one element along the row do not limit the width of accesses.
        same = [i for i, o in along if self._repeats(i, o)]
        self.stepping = [(o, ITEMSIZE[o.dtype]) for i, o in along if i not in same]
        self.repeated = sum(1 << i for i in same)
        self.values = self.operation.register_inputs  # values that registers hold of each element
        held = tuning.WORDS_IN_REGISTERS // (self.values * self.acc_words)
        self.items = max(power_of_two_below(held), self.group)
        self.chunk = WARP * self.items
        self.node_bytes = self.operation.node_words(dtypes, self.acc) * self.acc_bytes
        # Most warps of a block, which limits the registers of its threads.
        if self.acc == "float64":
            self.max_warps = tuning.BLOCK_WARPS_DOUBLE
        elif out == "float32":
            widened = min(size for _, size in self.along) < 4
            widened |= "scaled" in self.operation.features and device.max_cluster > 1
            self.max_warps = tuning.BLOCK_WARPS_WIDENED if widened else tuning.BLOCK_WARPS_FLOAT
        else:
            self.max_warps = tuning.BLOCK_WARPS
        operation = self.operation
        if operation.relative and (operation.plain or operation.picked):
            if out == "float32" or operation.always_exact:
                self.max_warps = tuning.BLOCK_WARPS_LOSS_FLOAT
            elif operation.plain or len(problem.batch_shape) > 1:
                self.max_warps = min(self.max_warps, tuning.BLOCK_WARPS_LOSS)
        if operation.needs(dtypes, self.acc).rule == "dominant":
            if operation.hides:
                self.max_warps = min(self.max_warps, tuning.BLOCK_WARPS_APART)
            elif out == "float32" and self.row_vector == 2:
                self.max_warps = min(self.max_warps, tuning.BLOCK_WARPS_APART_PAIRS)
        if operation.hides and self.row_vector < 4:
            self.max_warps = min(self.max_warps, tuning.BLOCK_WARPS_HIDES)
        if "seed" in operation.options and out == "float32":
            self.max_warps = tuning.BLOCK_WARPS_NOISE_FLOAT
        if "biased" in operation.features:
            self.max_warps = min(self.max_warps, tuning.BLOCK_WARPS_BIASED)
        if len(problem.reduce_shape) > 1:
            self.max_warps = tuning.GENERAL_WARPS

    def _repeats(self, number: int, operand: Operand) -> bool:
        few = self.problem.n < 2 or number >= len(self.operation.inputs)
        if few or not set(self.operation.patterns) <= {*REDUCTIONS, PIECE}:
            return False
        return not any(operand.reduce_strides)

    @property
    def parked_words(self) -> int:
        """Words of a chunk in shared memory: its elements, and a word of hidden bits a lane."""
        return self.chunk * self.values + (WARP if self.operation.hides else 0)

    @property
    def passes(self) -> int:
        """How often a row that is not kept on chip is read."""
        return 2 if self.operation.outputs else 1

    @property
    def uncached(self) -> bool:
        """Whether the caches are told not to keep what is read once and written.

        Not where whoever reads the results next may find them in the level 2 cache.
        """
        written = sum(size for _, size in self.along[len(self.operation.inputs) :])
        results = self.problem.rows * self.problem.n * written
        cache = self.device.l2_bytes * tuning.UNCACHED_PERCENT // 100
        return results > cache > 0

    @property
    def bulk(self) -> bool:
        """Whether the spans of blocks are copied by bulk copies."""
        return self.device.arch >= tuning.BULK_ARCH

    @property
    def row_is_contiguous(self) -> bool:
        return self.problem.n == 1 or all(o.reduce_strides[-1] == size for o, size in self.stepping)

    @cached_property
    def row_vector(self) -> int:
        """Elements of one access: as many as every row of every operand is aligned to."""
        problem = self.problem

        def fits(vector: int) -> bool:
            return problem.reduce_shape[-1] % vector == 0 and all(
                o.alignment % (vector * size) == 0
                and all(s % (vector * size) == 0 for s in self._steps(o.batch_strides))
                and all(s % (vector * size) == 0 for s in o.reduce_strides[:-1])
                for o, size in self.stepping
            )

        return self._widest(self.group, fits)

    @cached_property
    def staged_vector(self) -> int:
        """Elements of one access to segments, which may begin at any element of a column."""

        def fits(vector: int) -> bool:
            return self.row_is_contiguous and all(
                o.alignment % (vector * size) == 0
                and all(s % (vector * size) == 0 for s in self._steps(o.batch_strides))
                for o, size in self.stepping
            )

        return self._widest(self.group, fits)

    def column_vector(self, inner: int) -> int:
        """Neighbouring rows that one access reads."""

        def fits(vector: int) -> bool:
            return inner % vector == 0 and all(
                o.batch_strides[-1] == size
                and o.alignment % (vector * size) == 0
                and all(s % (vector * size) == 0 for s in self._steps(o.batch_strides)[:-1])
                and all(s % (vector * size) == 0 for s in o.reduce_strides)
                for o, size in self.along
            )

        operation = self.operation
        of_rows = operation.row_inputs or operation.row_outputs
        short = len(operation.outputs) == 1 and self.values <= 2 and not of_rows
        simple = short and not (operation.features or "seed" in operation.options)
        many = simple and self.acc == "float32"
        most = tuning.COLUMN_VECTOR if many else tuning.COLUMN_VECTOR_FEW // self.acc_words
        return self._widest(min(self.group, most), fits)

    def _steps(self, batch_strides: tuple[int, ...]) -> tuple[int, ...]:
        return batch_strides if self.problem.rows > 1 else ()

    @staticmethod
    def _widest(vector: int, fits: Callable[[int], bool]) -> int:
        while vector > 1 and not fits(vector):
            vector //= 2
        return vector

    def kernel(
        self, pattern: str, *, vector: int, group: int, lanes: int, items: int, **kind: Any
    ) -> Kernel:
        usual: dict[str, Any] = {
            "threads": min(self.max_warps, tuning.CAP_WARPS) * WARP,
            "bulk": self.bulk and pattern in _SPAN_PATTERNS and kind.get("staged", 0) != 0,
        }
        return make_kernel(
            self.problem,
            self.acc,
            pattern,
            vector=vector,
            group=group,
            lanes=lanes,
            items=items,
            **(usual | kind),
            repeated=0 if pattern == "column" else self.repeated,
        )

    def chunk_kernel(self, pattern: str, **kind: Any) -> Kernel:
        """Return a kernel in which each warp takes a chunk of a row."""
        return self.kernel(
            pattern,
            **({"vector": self.row_vector} | kind),
            group=self.group,
            lanes=WARP,
            items=self.items,
        )

    def plan(
        self,
        pattern: str,
        launches: tuple[Launch, ...],
        *,
        why: str,
        vector: int = 1,
        chunk: int = 0,
        reads: int = 1,
        rounds: int = 1,
        workspace: int = 0,
        checkers: int = 0,
        passes: int = 1,
    ) -> Plan:
        problem = self.problem
        return Plan(
            problem.op,
            pattern,
            launches,
            workspace,
            problem.rows,
            problem.n,
            problem,
            self.device,
            vector,
            chunk or self.chunk,
            reads if launches else 0,
            rounds,
            why,
            checkers,
            passes,
        )


def lanes_of(builder: PlanBuilder) -> tuple[int, int]:
    """Return how many lanes hold a row of at most one chunk, and how many elements each holds."""
    n = builder.problem.n
    if n <= 2 * builder.group:  # one access a lane
        return power_of_two(ceil_div(n, builder.group)), builder.group
    # As few lanes as can hold the row: fewer shuffles, and fewer idle elements in the last lanes.
    # Two lanes hold far fewer if that is enough: elements beyond the row's end change no bits.
    lanes = max(2, power_of_two(ceil_div(n, builder.items)))
    enough = max(builder.group, power_of_two(ceil_div(n, lanes)))
    return lanes, enough if 4 * enough <= builder.items * builder.acc_words else builder.items
