"""How often each loop of a kernel runs in a launch, derived from the plan.

A loop is recognised by its instructions: global memory accesses, and shuffles of either kind. A
compiler may unroll a loop of the source, so rounds are those of the machine code: the accesses or
shuffles that a warp must make, divided by those in one round.

Figures are means over the warps of a launch: a fold done by one warp of 16 counts as a sixteenth.
"""

from __future__ import annotations

from math import log2

from cusoftmax.machine_code.flow import Loop, LoopCounts
from cusoftmax.operations.dtypes import ITEMSIZE
from cusoftmax.operations.table import KERNELS
from cusoftmax.planning.builder import ceil_div, power_of_two
from cusoftmax.planning.plan import WARP, Launch, Plan
from cusoftmax.planning.planner import NODES_EACH, groups_of, split_nodes_each


def loop_counts_of(plan: Plan, launch: Launch) -> LoopCounts:
    """Return a function that gives the rounds of a loop of a launch's kernel."""
    return _LaunchLoops(plan, launch).rounds


class _LaunchLoops:
    """What the rounds of a launch's loops follow from."""

    def __init__(self, plan: Plan, launch: Launch) -> None:
        self.plan, self.launch, kernel = plan, launch, launch.kernel
        self.pattern, self.stage = kernel["CSM_PATTERN"], int(kernel["CSM_STAGE"])
        self.warps = launch.block / WARP
        self.chunks = ceil_div(plan.n, plan.chunk)
        self.lanes, self.columns = int(kernel["CSM_LANES"]), int(kernel["CSM_VEC"])
        acc = 2 if kernel["CSM_ACC"] == "double" else 1
        operation = KERNELS[plan.op]
        compensated = int(kernel["CSM_COMPENSATED"])
        # A node is shuffled word by word: the maximum, the sums with their low words, the picked.
        relative, plain, picked = (int(count) for count in kernel["CSM_NEEDS"].split(","))
        maximum = operation.maximum_words if relative else 0
        sums = (relative + plain) * (1 + compensated) + relative * int(kernel["CSM_OTHERS_IN_LOW"])
        self.words = (maximum + sums + picked) * acc
        self.folds_chunks = self.pattern == "block" or (
            self.pattern == "stream" and kernel["CSM_PARKS"] != "0"
        )

    def rounds(self, loop: Loop) -> float | None:
        moves = loop.has("LDG") or loop.has("STG")
        if loop.depth == 0 and (moves or loop.has("LDS")):
            return self._units()
        if self.pattern in ("segment", "topk_group"):  # as often as the data say
            return None
        if self.pattern == "group" and loop.depth == 1 and loop.has("LDS"):
            return ceil_div(self._rows_of_a_thread(), int(self.launch.kernel["CSM_ROWS_AT_ONCE"]))
        if self.pattern == "column" and self.stage != 2 and self._is_staged():
            if loop.has("BAR") and loop.depth == 1:
                return self.plan.passes
            if moves and not loop.has("BAR"):
                return self._copies(loop)
        if self.pattern == "column" and self.stage != 2 and self._folds_columns(loop):
            return self._fold_columns(loop)
        if loop.has("SHFL.IDX") or loop.has("SHFL.BFLY"):
            folds = not loop.has("STG") and (not moves or self._folds_workspace())
            if folds:
                return self._fold(loop)
        if (self.pattern, self.stage) == ("column", 5) and not (moves or loop.has("LDS")):
            empty = power_of_two(self._pieces()) - self._pieces()  # nodes beside those of pieces
            return empty * self.lanes * self.columns / self.launch.block
        if (loop.has("STG") or loop.has("STS")) and not loop.has("LDG") and not loop.has("LDS"):
            if not moves and not loop.has("FMUL") and not loop.has("DMUL"):
                return self._padding()
            return 1.0  # results are stored in one round, but of terms far below the maximum
        if moves:
            return self._stretch(loop)
        if self.pattern == "column" and loop.has("ST"):  # nodes to the other blocks
            return 1.0
        if loop.has("UBLKCP") or loop.has("SYNCS"):  # one thread of a block copies, and waits
            return 1 / self.warps
        if loop.has("VOTE"):  # sm_75 waits for diverged lanes, and there are none
            return 1.0
        one_dimension = self.launch.kernel["CSM_BATCH_DIMS"] == "1"
        if one_dimension and (self.folds_chunks or self._folds_workspace()):
            nodes, share = self._nodes()  # the loop doubles the width of a fold until it suffices
            if self.folds_chunks:
                nodes = groups_of(nodes, self._each()) or nodes
            return share * log2(min(WARP, power_of_two(nodes)))
        return None

    def _folds_workspace(self) -> bool:
        return (self.pattern, self.stage) in (("split", 1), ("column", 2))

    def _folds_pieces(self) -> bool:
        """Whether all warps of a block fold the nodes of a split row."""
        return (self.pattern, self.stage) == ("split", 1) and not self._folds_rows()

    def _folds_rows(self) -> bool:
        """Whether each warp folds a row of its own, not the first warp for the whole block."""
        values_only = not KERNELS[self.plan.op].outputs
        return self._folds_workspace() and (self.pattern == "column" or values_only)

    def _units(self) -> float:
        """Return how many rows, or pieces of work, a block does one after the other."""
        plan, launch, kernel = self.plan, self.launch, self.launch.kernel
        clusters = launch.grid / kernel.cluster
        if self.pattern in ("group", "topk_group"):
            at_once = launch.block // self.lanes * self._rows_of_a_thread()
            return max(1.0, plan.rows / (launch.grid * at_once))
        if self._folds_rows():
            return max(1.0, plan.rows / (launch.grid * self.warps))
        if self.pattern == "split":
            per_row = ceil_div(plan.n, plan.chunk * int(self.warps) * plan.rounds)
            return max(1.0, plan.rows * per_row / clusters)
        if self.pattern == "column":
            inner = plan.problem.batch_shape[-1]
            tiles = plan.rows // inner * ceil_div(inner, self._width())
            units = tiles * (1 if self.stage == 5 else self._segments())
            return max(1.0, units / clusters)
        return max(1.0, plan.rows / clusters)

    def _segments(self) -> int:
        """Return how many blocks or clusters share a row of the column pattern."""
        length = self.plan.chunk * (self.launch.block // self.lanes) * self.launch.kernel.cluster
        return ceil_div(self.plan.n, length * self.plan.rounds)

    def _rounds_of_column(self) -> int:
        """Return the rounds of a block of the column pattern that passes over its rows twice."""
        return ceil_div(self.plan.n, self.plan.chunk * (self.launch.block // self.lanes))

    def _pieces(self) -> int:
        """Return how many times such a block folds the nodes of some rounds."""
        return ceil_div(self._rounds_of_column(), self.plan.rounds)

    def _leaves(self) -> int:
        """Return how many nodes of a row a block of the column pattern folds."""
        if self.stage in (1, 4):  # of its warps, in each of which shuffles fold them
            return int(self.warps)
        return self.launch.block // self.lanes * (self.plan.rounds if self.stage == 5 else 1)

    def _is_staged(self) -> bool:
        return self.launch.kernel["CSM_STAGED"] != "0"

    def _width(self) -> int:
        """Return how many rows side by side a block of the column pattern takes."""
        passes = self.plan.passes if self._is_staged() else 1
        return min(self.plan.problem.batch_shape[-1], passes * self.lanes * self.columns)

    def _copies(self, loop: Loop) -> float:
        """Return the rounds of a loop that copies staged columns: over lines, or along one."""
        width, itemsize = self._width(), ITEMSIZE[self.plan.problem.operands[0].dtype]
        lines, team = min(self.plan.n, self.plan.chunk * (self.launch.block // self.lanes)), WARP
        if width == self.plan.problem.batch_shape[-1]:  # they lie end to end
            width, lines, team = width * lines, 1, self.launch.block
        own = ceil_div(lines, self.launch.block // team)
        if loop.children:
            return own
        if any(opcode.endswith(".128") for opcode in loop.opcodes):
            return ceil_div(width * itemsize, team * 16)
        return ceil_div(own, 4)  # the loads of so many lines' ends are in flight

    def _stretch(self, loop: Loop) -> float:
        """Return how many chunks a warp does in a loop."""
        if self.pattern == "stream":
            return ceil_div(self.chunks, int(self.warps))
        if self.pattern == "split":
            return self.plan.rounds
        if self.pattern == "column" and self.stage == 4 and not loop.has("STG"):  # loads nodes
            each = power_of_two(ceil_div(self._segments(), self.launch.block // self.lanes))
            return each / 2  # two at once
        if self.pattern == "column" and self.stage == 5:
            return (
                self._rounds_of_column() if loop.has("STG") else self._pieces() * self.plan.rounds
            )
        if self.pattern == "column":
            return self.plan.rounds
        if self.pattern == "block":  # the first chunk is outside the loop, in registers
            return max(0.0, self.chunks / (self.warps * self.launch.kernel.cluster) - 1)
        return 1.0

    def _rows_of_a_thread(self) -> int:
        return self.plan.rounds

    def _padding(self) -> float:
        """Return how many vectors a thread puts behind the row where operands are staged."""
        warps = int(self.warps) * self.launch.kernel.cluster
        each = 2 if self.launch.kernel["CSM_FIRST_ITEMS"] != "0" else 1  # chunks of a warp
        padded = ceil_div(self.chunks, each * warps) * each * warps
        filled = ceil_div(self.chunks, each) * each if self.pattern == "block" else padded
        size = ITEMSIZE[self.plan.problem.operands[0].dtype]
        return (filled * self.plan.chunk - self.plan.n) * each * size / (padded * WARP * 16)

    def _fold(self, loop: Loop) -> float | None:
        """Return the rounds of a loop that folds nodes."""
        if self.folds_chunks or self._folds_pieces():
            return self._fold_in_block(loop)
        nodes, share = self._nodes()
        lanes = loop.per_round("SHFL.BFLY")
        if (self.pattern, self.stage) in (("stream", 0), ("split", 0)):  # warp 0, for all warps
            return share * (log2(nodes) * self.words / lanes if lanes else 1.0)
        within = loop.parent is not None and self._is_tree(loop.parent)
        if self._is_tree(loop):  # 32 nodes at a time
            return share * ceil_div(nodes, WARP) if nodes > WARP else 0.0
        if loop.has("SHFL.BFLY"):
            width = WARP if within else min(WARP, power_of_two(nodes))
            steps = log2(width) * self.words / max(1, lanes)
            return steps if within else share * steps
        # Partial sums are kept like the digits of a binary counter: on average one carry for each
        # that is added, and at the end one for each digit.
        if within:
            return 1.0
        return share * log2(ceil_div(nodes, WARP) + 1) if nodes > WARP else 0.0

    @staticmethod
    def _is_tree(loop: Loop) -> bool:
        """Whether the loop folds 32 nodes and stores the result: it has both kinds of shuffle."""
        return not loop.has("STG") and loop.has("SHFL.BFLY") and loop.has("SHFL.IDX")

    def _nodes(self) -> tuple[int, float]:
        """Return how many nodes are folded, and the share of the warps that do so."""
        if self.folds_chunks:
            return self.chunks, 1.0
        if self.pattern == "column":
            return self._segments(), 1.0
        if self.pattern == "split" and self.stage == 1:
            per_row = self.plan.chunk * int(self.warps) * self.plan.rounds
            return ceil_div(self.plan.n, per_row), 1.0 if self._folds_rows() else 1 / self.warps
        return int(self.warps), 1 / self.warps

    def _each(self) -> int:
        """Return how many nodes of a group each lane folds: those of blocks that have groups."""
        kernel = self.launch.kernel
        if self._folds_pieces():
            return split_nodes_each(kernel)
        several = kernel.cluster > 1 or kernel["CSM_PARKS"] == "1"
        return NODES_EACH if self.folds_chunks and several else 1

    def _fold_in_block(self, loop: Loop) -> float | None:
        """Return the rounds of a fold by all warps of a block: over groups, or over lanes.

        In one loop, each warp folds its share of the groups and then, last, one of them what they
        became. A block that never has groups has no such loop.
        """
        nodes = self._nodes()[0]
        groups = groups_of(nodes, self._each())
        outer = self._each() > 1 or self._folds_pieces()
        rounds = (groups + 1) / self.warps if outer else 1.0
        if any(child.has("SHFL.BFLY") for child in loop.children):
            return rounds
        last = min(WARP, power_of_two(groups or nodes))
        steps = (groups * log2(WARP) + log2(last)) / self.warps
        return steps / rounds * self.words / max(1, loop.per_round("SHFL.BFLY"))

    @staticmethod
    def _folds_columns(loop: Loop) -> bool:
        return loop.has("LDS") and loop.has("STS") and not (loop.has("LDG") or loop.has("STG"))

    def _fold_columns(self, loop: Loop) -> float:
        """Return the rounds of a loop of the column pattern's fold: over levels, or over pairs."""
        levels = loop if loop.has("BAR") else loop.parent
        # First over the walkers of a block, then over the blocks of a cluster.
        before = False
        if levels is not None and levels.parent is not None:
            beside = levels.parent.children
            before = any(x.has("BAR") and x.header < levels.header for x in beside)
        # Or, within a pass over the rows, over the walkers of some rounds; then over those nodes.
        parts = self.launch.kernel.cluster if before else self._leaves()
        once = 1.0  # for each round of the loop around it
        if self.stage == 5:
            inner = levels is not None and levels.depth == 2
            parts = parts if inner else power_of_two(self._pieces())
            once = 1 / self.plan.rounds if inner else 1.0
        steps = max(1, int(log2(parts)))
        if loop is levels:
            return once * log2(parts)
        nodes = parts * self.lanes * self.columns
        warps = sum(ceil_div(nodes >> step, WARP) for step in range(1, steps + 1))
        return warps / steps / self.warps
