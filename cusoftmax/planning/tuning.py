"""Numbers that were chosen, not derived, each with the GPU it was measured on and the evidence.

The planner has no such numbers elsewhere. If the GPU is `None`, the number was not measured, and
the evidence is the reasoning behind it.
"""

from __future__ import annotations


class Tuned(int):
    """A number, the GPU on which it was measured (None: not yet), and the evidence for it."""

    gpu: str | None
    evidence: str

    def __new__(cls, value: int, gpu: str | None, evidence: str) -> Tuned:
        tuned = super().__new__(cls, value)
        tuned.gpu, tuned.evidence = gpu, evidence
        return tuned

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        """Copied and pickled plans have plain numbers."""
        return int, (int(self),)


GROUP_THREADS = Tuned(128, None, "4 warps: a last, partly filled block wastes little")
# Staged rows.
GROUP_ALONE = Tuned(36, None, "values that a lane holds of a row which it has alone: no spills")
GROUP_WORDS = Tuned(64, None, "words of a lane that shares a row; 32 values at most")
GROUP_BYTES = Tuned(1 << 15, None, "of a block's span: five blocks, and its instructions are few")
GROUP_BLOCKS = Tuned(4, None, "blocks for each multiprocessor, before a thread takes several rows")
GROUP_SPANS = Tuned(8, None, "rows of a thread: a block's own code is 0.1 instructions of 1001")
# Another value would change the bits of every longer row: the chunk is the unit of summation.
WORDS_IN_REGISTERS = Tuned(
    32, None, "32 data registers of the 64 that a thread has when 1024 share a multiprocessor"
)
BLOCK_WARPS = Tuned(32, None, "the most a block may have; registers checked by the compile gate")
BLOCK_WARPS_FLOAT = Tuned(24, None, "sums of two words spill one of 64 registers in a cluster")
BLOCK_WARPS_WIDENED = Tuned(
    20, None, "float32 of narrower or scaled inputs spills at 80 registers in a cluster"
)
BLOCK_WARPS_DOUBLE = Tuned(16, None, "float64 polynomials spill at 64 registers")
BLOCK_WARPS_PRODUCTS = Tuned(24, None, "float64 without exponentials, in large clusters: no spills")
# Operations that need more of a row than relative sums, such as a loss.
BLOCK_WARPS_LOSS = Tuned(
    24, None, "a plain sum beside them, or rows unevenly apart, spill at 64 registers"
)
BLOCK_WARPS_LOSS_FLOAT = Tuned(16, None, "sums of two words and a target spill at 80 registers")
BLOCK_WARPS_BIASED = Tuned(20, None, "the words of a sum spill at 80 registers in a cluster")
BLOCK_WARPS_NOISE_FLOAT = Tuned(16, None, "noise beside sums of two words spills at 80 registers")
BLOCK_WARPS_HIDES = Tuned(
    24, None, "hidden elements read one or two at a time spill at 64 registers"
)
BLOCK_WARPS_APART = Tuned(16, None, "an element kept apart and hidden ones spill at 96 registers")
BLOCK_WARPS_APART_PAIRS = Tuned(20, None, "read in pairs, one kept apart spills at 80 registers")
# Fewer where the row then fits on the chip.
RESIDENT_BLOCKS = Tuned(2, None, "one block loads while another computes: docs/cost.md, phases")
RESIDENT_BLOCKS_LONG = Tuned(
    4, None, "float64, and three inputs of 16 bits, take longer than half of the memory's time"
)
RESIDENT_LONG_ARCH = Tuned(100, None, "before, memory takes so long that two blocks suffice")
# Above 8 only where fewer leave a multiprocessor to one block.
CLUSTER_BLOCKS = Tuned(16, None, "eight multiprocessors hold a row, as with 8 blocks of one each")
# Before chunks are parked, even if fewer blocks could park them; staged elements of any size.
UNPARKED_BYTES = Tuned(2, None, "an element of 16 bits takes 32 where it is parked")
PARK_WARPS = Tuned(28, None, "with parked chunks, a bfloat16 kernel spills at 64 registers")
PARK_WARPS_BIASED = Tuned(16, None, "the same with parked chunks, at 96 registers")
PARK_WARPS_LOSS_DOUBLE = Tuned(12, None, "float64 losses, two sums or staged, not read in pairs")
GENERAL_WARPS = Tuned(8, None, "offsets over many dimensions take registers: no spills at 255")
CAP_WARPS = Tuned(16, None, "128 registers a thread, where blocks are smaller: no spills")
STREAM_WARPS = Tuned(16, None, "one block's barrier overlaps with another's loads")
STREAM_WARPS_DOUBLE = Tuned(
    8, None, "two blocks, each in one of two passes, or with its rounds staged"
)
# Rows that are read again from the level 2 cache: so much of it for one row a multiprocessor.
STREAM_PERCENT = Tuned(
    300, None, "a block alone keeps two fifths at least; longer ones are read by two that keep none"
)
STREAM_KEPT_PERCENT = Tuned(
    70, None, "of rows that a block could keep, alone: half has five of seven"
)
STREAM_FOUND_PERCENT = Tuned(50, None, "of the cache that holds what is read again: docs/cost.md")
STREAM_CACHED_WARPS = Tuned(28, None, "of a block alone, with a chunk each: 64 registers spill")
STREAM_LOGARITHM_WARPS = Tuned(12, None, "scaled, biased rows that are kept spill at 128")
STREAM_VALUES_WARPS = Tuned(4, None, "one pass: five to eight blocks share a multiprocessor")
STREAM_VALUES_CAP_WARPS = Tuned(
    24, None, "80 registers of 16-bit results spill with features; six blocks"
)
STREAM_VALUES_BLOCKS = Tuned(4, None, "rows for each multiprocessor, before blocks are so small")
SPLIT_WARPS = Tuned(8, None, "one row of 2^20 float16 then makes 128 blocks, a block for each SM")
SPLIT_WARPS_FLOAT = Tuned(4, None, "where arithmetic takes longest: blocks differ less in number")
SPLIT_CAP_WARPS_UNEVEN = Tuned(
    12, None, "scaled, masked rows unevenly apart spill at 128 registers"
)
SPLIT_CAP_WARPS_NOISE = Tuned(12, None, "float64 noise spills at 128 registers")
SPLIT_FEW = Tuned(256, None, "pieces of such blocks at most: the 4 warps of each fold all nodes")
COLUMN_WORDS = Tuned(16, None, "32-bit words down a row and thread, for each of its columns")
COLUMN_VECTOR = Tuned(4, None, "columns a thread: half of the instructions of addresses of two")
COLUMN_VECTOR_FEW = Tuned(2, None, "of operations with features or values of rows, one of float64")
COLUMN_WARPS = Tuned(16, None, "512 threads of 128 registers fill a multiprocessor")
COLUMN_WARPS_FLOAT = Tuned(
    12, None, "rounds, and four columns of two-word sums, spill at 128 registers"
)
COLUMN_WARPS_ROWS = Tuned(
    8, None, "rounds beside values that come with the rows, or after a fold apart, spill at 168"
)
COLUMN_BLOCK_WARPS = Tuned(4, None, "of rows read twice: small blocks, many of which are resident")
COLUMN_LONG_WARPS = Tuned(8, None, "staged rows that do not fit: few pieces, each with a node")
COLUMN_NODE_BYTES = Tuned(48 << 10, None, "of a block's rounds, or of its rows: four blocks fit")
COLUMN_STREAM_WARPS = Tuned(
    16, None, "of both blocks of a multiprocessor, or of one: 128 registers"
)
COLUMN_STREAM_PERCENT = Tuned(
    70, None, "of the level 2 cache, for the rows of two blocks; 0: none are streamed"
)
COLUMN_ALONE_PERCENT = Tuned(125, None, "of one block: half of it then has two of five")
COLUMN_PIECES = Tuned(64, None, "of a column, for each round: blocks for every multiprocessor")
SPLIT_PIECES = Tuned(1024, None, "nodes of a row that each block folds: 12 KiB from the L2 cache")
CHECK_THREADS = Tuned(256, None, "offsets are looked at by few, full blocks")
CHECKED = Tuned(3, None, "offsets that each of their threads loads at once")
CHECKERS = Tuned(512, None, "bytes that each block of the next launch reads: 16 a lane of a warp")
SEGMENT_LONGER_BLOCKS = Tuned(
    4, None, "for each multiprocessor, which look for rows longer than a tile: all at once"
)
SEGMENT_CAP_WARPS = Tuned(16, None, "128 registers a thread: no spills; four blocks at a time")
SEGMENT_CAP_WARPS_MANY = Tuned(20, None, "five blocks; with a second input 96 registers spill")
SEGMENT_MANY_ARCH = Tuned(90, None, "before, 96 registers spill with one input too")
SEGMENT_CAP_WARPS_DOUBLE = Tuned(12, None, "float64 spills at 128 registers")
# Whether elements pass through shared memory, in whole vectors and sectors.
STAGED_PERCENT = Tuned(5, None, "sectors more than the least that a direct access may touch")
STAGED_WARPS = Tuned(24, None, "80 registers: three blocks of a warp for each chunk of 8191")
STAGED_WARPS_LOG = Tuned(20, None, "ones that are counted beside a sum spill at 80 registers")
STAGED_WARPS_FLOAT = Tuned(16, None, "float32, and hidden elements, spill at 96 registers")
STAGED_WARPS_LOSS_FLOAT = Tuned(12, None, "a float32 loss beside them spills at 128 registers")
STAGED_WARPS_DOUBLE = Tuned(8, None, "float64 and a mask, or sm_75, spill at 168 registers")
# Of the group pattern.
STAGED_GROUP_WARPS_DOUBLE = Tuned(12, None, "float64 copied in bulk, or a loss, spills at 128")
STAGED_GROUP_WARPS_TWO = Tuned(20, None, "16-bit of two inputs before sm_90 spills at 80 registers")
STAGED_GROUP_WARPS_ALONE = Tuned(8, None, "long rows of a lane alone spill at 168 registers")
STAGED_GROUP_WARPS_LOSS = Tuned(24, None, "16-bit losses keep 80 registers: six blocks, not four")
STAGED_GROUP_WARPS_NOISE = Tuned(12, None, "float32 noise on sm_100 spills at 128 registers")
GROUP_ALONE_LONG = Tuned(24, None, "float64, and float32 noise, of such a row that 168 hold")
GROUP_ALONE_BULK = Tuned(32, None, "the same of float64 that is copied in bulk")
STAGED_PARK_WARPS = Tuned(12, None, "the same with parked chunks, at 128 registers")
STAGED_PARK_WARPS_DOUBLE = Tuned(8, None, "float64 with parked chunks spills at 168 registers")
STAGED_BYTES = Tuned(1 << 18, None, "of an array: less passes in the time of a few barriers")
BULK_ARCH = Tuned(90, None, "one thread copies: 1 to 4 instructions an element less; never: 999")
BULK_WARPS = Tuned(32, None, "then, with 16-bit results: no addresses of copies take registers")
BULK_WARPS_FLOAT = Tuned(16, None, "the same of others: more spare no blocks up to 131072")
BULK_WARPS_TWO = Tuned(26, None, "float32 of two inputs: half as many blocks fold 50257 elements")
PAIR_WARPS = Tuned(20, None, "two chunks a warp: 96 registers, no spills")
PAIR_LOG_ARCH = Tuned(100, None, "before, two chunks of 16-bit log_softmax spill at 128 registers")
PAIR_WARPS_FLOAT = Tuned(16, None, "the same of float32, and of sums without the largest term: 128")
# Caches are told not to keep larger results if this is not 0: try 50.
UNCACHED_PERCENT = Tuned(0, None, "of the level 2 cache; as many instructions, so a GPU must say")
# With few long rows, more blocks than rows are needed to use the whole GPU.
SPLIT_LENGTH = Tuned(65536, None, "below, a second launch (about 2 µs) costs more than it saves")
SPLIT_LENGTH_LARGE_CLUSTERS = Tuned(
    131072, None, "that or less is read once by 9 to 16 blocks, however few rows there are"
)
SPLIT_FILL = Tuned(4, None, "split when resident rows would leave 3 of 4 multiprocessors idle")
SPREAD_WARPS = Tuned(4, None, "a cluster is widened while its blocks keep this many warps")
TOPK_FEW = Tuned(8, None, "picks of a short row that are in one slot of as many lanes: MoE gates")
# float64 needs more than 128 registers a thread: one block a multiprocessor.
TOPK_WARPS = Tuned(8, None, "two blocks share a multiprocessor: one merges while the other reads")
TOPK_SPLIT_ROUNDS = Tuned(2, None, "four chunks of a warp take longer than two launches: predicted")
TOPK_ITEMS_ONE = Tuned(8, None, "of a lane, where one element is drawn of few rows: short chains")
TOPK_LISTS = Tuned(32, None, "of k candidates: to merge them takes as long as a round: predicted")
TOPK_COLUMN_ROUNDS = Tuned(4, None, "chunks of a warp that take about as long as another launch")
TOPK_BLOCKS = Tuned(2, None, "blocks for each multiprocessor when rows are split; see TOPK_WARPS")
