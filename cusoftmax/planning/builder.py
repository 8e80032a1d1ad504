"""What all patterns share: the numbers of a problem, and how kernels and plans are made of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from cusoftmax.operations.dtypes import ITEMSIZE, compute_dtype
from cusoftmax.operations.operation import REDUCTIONS, Operation
from cusoftmax.operations.table import KERNELS
from cusoftmax.planning import tuning as tuned
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import WARP, Kernel, Launch, Plan, make_kernel
from cusoftmax.planning.problem import Operand, Problem

ACCESS_BYTES = 16  # the widest global access of one thread


def computes_in(problem: Problem) -> str:
    """Return the dtype of a problem's arithmetic; results beside the precise one follow it."""
    operation = KERNELS[problem.op]
    dtypes = [o.dtype for o in problem.operands]
    read = [d for i, d in enumerate(dtypes[: len(operation.read)]) if operation.counts(i)]
    return compute_dtype(read, dtypes[operation.precision])


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def power_of_two(at_least: int) -> int:
    return 1 << max(0, at_least - 1).bit_length()


def power_of_two_below(at_most: int) -> int:
    return 1 << max(1, at_most).bit_length() - 1


class PlanBuilder:
    """The numbers that all patterns need, and the construction of kernels and plans from them."""

    def __init__(self, problem: Problem, device: DeviceSpec) -> None:
        self.problem = problem
        self.device = device
        self.operation: Operation = KERNELS[problem.op]
        dtypes = [o.dtype for o in problem.operands]
        out = dtypes[self.operation.precision]
        self.acc = computes_in(problem)
        self.acc_bytes = ITEMSIZE[self.acc]
        self.acc_words = self.acc_bytes // 4
        # The operands that are walked along the rows, and the sizes of their elements.
        along = [(i, o) for i, o in enumerate(problem.operands) if self.operation.along_rows(i)]
        # The widest access that any layout of these dtypes allows; the order of summation is in it.
        self.along = [(o, ITEMSIZE[o.dtype]) for _, o in along]
        self.group = ACCESS_BYTES // max(size for _, size in self.along)
        # Inputs that repeat one element along the row are no hindrance to wide accesses of it.
        same = [i for i, o in along if self._repeats(i, o)]
        self.stepping = [(o, ITEMSIZE[o.dtype]) for i, o in along if i not in same]
        self.repeated = sum(1 << i for i in same)
        self.values = self.operation.held  # of an element, in registers
        held = tuned.WORDS_IN_REGISTERS.value // (self.values * self.acc_words)
        self.items = max(power_of_two_below(held), self.group)
        self.chunk = WARP * self.items
        self.node_bytes = self.operation.node_words(dtypes, self.acc) * self.acc_bytes
        # Warps of a block, which cap the registers of its threads.
        if self.acc == "float64":
            self.max_warps = tuned.BLOCK_WARPS_DOUBLE.value
        elif out == "float32":
            widened = min(size for _, size in self.along) < 4
            self.max_warps = (
                tuned.BLOCK_WARPS_WIDENED.value if widened else tuned.BLOCK_WARPS_FLOAT.value
            )
        else:
            self.max_warps = tuned.BLOCK_WARPS.value
        operation = self.operation
        if operation.relative and (operation.plain or operation.picked):
            if out == "float32":
                self.max_warps = tuned.BLOCK_WARPS_LOSS_FLOAT.value
            elif operation.plain:
                self.max_warps = min(self.max_warps, tuned.BLOCK_WARPS_LOSS.value)
        if "seed" in operation.options and out == "float32":
            self.max_warps = tuned.BLOCK_WARPS_NOISE_FLOAT.value
        if "biased" in operation.features:
            self.max_warps = min(self.max_warps, tuned.BLOCK_WARPS_BIASED.value)
        if len(problem.reduce_shape) > 1:
            self.max_warps = tuned.GENERAL_WARPS.value

    def _repeats(self, number: int, operand: Operand) -> bool:
        few = self.problem.n < 2 or number >= len(self.operation.inputs)
        if few or not set(self.operation.patterns) <= set(REDUCTIONS):
            return False
        return not any(operand.reduce_strides)

    @property
    def parked_words(self) -> int:
        """Words of a chunk in shared memory: its elements, and a word a lane of what is hidden."""
        return self.chunk * self.values + (WARP if self.operation.hides else 0)

    @property
    def passes(self) -> int:
        """How often a row that is not kept on the chip is read."""
        return 2 if self.operation.outputs else 1

    @property
    def row_is_contiguous(self) -> bool:
        return self.problem.n == 1 or all(o.reduce_strides[-1] == size for o, size in self.stepping)

    @cached_property
    def row_vector(self) -> int:
        """Elements of one access: the most that every row of every operand is aligned to."""
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
        """Elements of one access to a whole column, wherever its rows begin."""

        def fits(vector: int) -> bool:
            return self.row_is_contiguous and all(
                o.alignment % (vector * size) == 0
                and all(s % (vector * size) == 0 for s in self._steps(o.batch_strides))
                for o, size in self.stepping
            )

        return self._widest(self.group, fits)

    def column_vector(self, inner: int) -> int:
        """Neighbouring rows of one access."""

        def fits(vector: int) -> bool:
            return inner % vector == 0 and all(
                o.batch_strides[-1] == size
                and o.alignment % (vector * size) == 0
                and all(s % (vector * size) == 0 for s in self._steps(o.batch_strides)[:-1])
                and all(s % (vector * size) == 0 for s in o.reduce_strides)
                for o, size in self.along
            )

        return self._widest(min(self.group, tuned.COLUMN_VECTOR.value // self.acc_words), fits)

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
        return make_kernel(
            self.problem,
            self.acc,
            pattern,
            vector=vector,
            group=group,
            lanes=lanes,
            items=items,
            **({"threads": min(self.max_warps, tuned.CAP_WARPS.value) * WARP} | kind),
            repeated=0 if pattern == "column" else self.repeated,
        )

    def chunk_kernel(self, pattern: str, **kind: Any) -> Kernel:
        """A kernel whose warps take a chunk of a row each."""
        return self.kernel(
            pattern,
            vector=self.row_vector,
            group=self.group,
            lanes=WARP,
            items=self.items,
            **kind,
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
        )


def lanes_of(make: PlanBuilder) -> tuple[int, int]:
    """Return the lanes that hold a row of at most a chunk, and the elements in each."""
    n = make.problem.n
    if n <= 2 * make.group:  # one access a lane
        return power_of_two(ceil_div(n, make.group)), make.group
    # As few lanes as can hold the row: fewer shuffles, and less of the last lanes idle.
    return max(2, power_of_two(ceil_div(n, make.items))), make.items
