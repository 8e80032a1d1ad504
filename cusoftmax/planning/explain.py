"""A plan in words."""

from __future__ import annotations

from collections.abc import Iterator

from cusoftmax.operations.dtypes import ITEMSIZE
from cusoftmax.operations.table import KERNELS
from cusoftmax.planning.plan import Plan
from cusoftmax.planning.problem import Operand

# How each pattern lays a row over threads. `Plan.why` says why the pattern was chosen.
_SHAPES = {
    "empty": "nothing is launched",
    "group": "each row in the registers of a warp or a part of one",
    "block": "each row on the chip, in one block or in a cluster of blocks",
    "stream": "one block passes over each row",
    "split": "many blocks share each row",
    "column": "threads lie along the contiguous axis, rows run down a strided one",
    "map": "each element by itself",
    "topk_group": "each row in the registers of a warp or a part of one",
    "topk_block": "one block passes over each row, its warps with what is best so far",
    "topk_split": "many blocks share each row, and a second launch merges what they selected",
    "topk_column": "a block passes over rows side by side, a warp with what is best of each",
    "segment": "blocks take equal shares of the elements, and the rows that begin in each",
}


class Explanation(Plan):
    """The plan that `cusoftmax.explain` returns; `print` shows `describe` of it."""

    def __str__(self) -> str:
        return describe(self)


def describe(plan: Plan) -> str:
    """Return a plan in words, as lines of ``label  text``.

    Parameters
    ----------
    plan : Plan
        What `cusoftmax.explain` returned.

    Returns
    -------
    str
        What is computed, the pattern and the reason for it, the launches, and the bytes moved.
    """
    return "\n".join(f"{label:<12} {text}".rstrip() for label, text in _lines(plan))


def moved_bytes(plan: Plan) -> int:
    """Return the bytes of the arrays that a plan moves: inputs times their reads, and results."""
    read = len(KERNELS[plan.op].read)
    inputs, results = plan.operand_bytes[:read], plan.operand_bytes[read:]
    return plan.reads * sum(inputs) + sum(results) if plan.launches else 0


def _lines(plan: Plan) -> Iterator[tuple[str, str]]:
    problem, device = plan.problem, plan.device
    operation = KERNELS[plan.op]
    yield plan.op, operation.formula
    yield "problem", f"{with_noun(plan.rows, 'row')} of {with_noun(plan.n, 'element')}"
    for name, operand in zip((*operation.read, *operation.written), problem.operands, strict=True):
        yield "", f"{name}: {_operand(plan, operand)}"
    yield "device", f"{device.name} (sm_{device.arch}), {device.sm_count} multiprocessors"
    yield "pattern", f"{plan.pattern}: {_SHAPES[plan.pattern]}"
    yield "because", plan.why
    for number, launch in enumerate(plan.launches, 1):
        yield "launch" if number == 1 else "", launch.kernel.name
        cluster = launch.kernel.cluster
        parts = [f"grid {launch.grid:,} x block {launch.block}"]
        parts += [f"clusters of {cluster} blocks"] if cluster > 1 else []
        parts.append(f"{launch.shared_bytes:,} bytes of shared memory a block")
        yield "", ", ".join(parts)
    if not plan.launches:
        return
    sizes = dict.fromkeys(
        ITEMSIZE[o.dtype] * plan.vector
        for i, o in enumerate(problem.operands)
        if operation.along_rows(i)
    )
    widths = " or ".join(str(size) for size in sizes)
    staged = any(launch.kernel["CSM_STAGED"] != "0" for launch in plan.launches)
    yield (
        "access",
        "rows start off the boundaries of sectors: 16 bytes at a time, by way of shared memory"
        if staged
        else f"{with_noun(plan.vector, 'element')} at a time, {widths} bytes",
    )
    if plan.pattern != "map":
        chunks = with_noun(plan.chunk, "element")
        yield "sum", f"in {_dtype(plan)}, chunks of {chunks}, one order for all"
    yield "layout", f"no copy; {_layout(plan)}"
    if plan.workspace_bytes:
        yield "workspace", f"{plan.workspace_bytes:,} bytes, for the length of the call"
    moved = moved_bytes(plan)
    ratio = moved / plan.least_bytes
    yield "traffic", f"{moved:,} bytes of the arrays, {ratio:.2f} x the least possible"
    results = "result" if len(operation.written) == 1 else "results"
    yield "", f"inputs read {_times(plan.reads)}, {results} written once"


def _operand(plan: Plan, operand: Operand) -> str:
    problem = plan.problem
    batch = " x ".join(str(n) for n in problem.batch_shape)
    reduce = " x ".join(str(n) for n in problem.reduce_shape)
    strides = f"{_strides(operand.batch_strides)} | {_strides(operand.reduce_strides)}"
    return f"{operand.dtype}, {batch} | {reduce} by strides {strides} bytes"


def _strides(strides: tuple[int, ...]) -> str:
    return ", ".join(str(s) for s in strides)


def _dtype(plan: Plan) -> str:
    return {"float": "float32", "double": "float64"}[plan.launches[0].kernel["CSM_ACC"]]


def _layout(plan: Plan) -> str:
    problem = plan.problem
    dims = len(problem.batch_shape) + len(problem.reduce_shape)
    dense = all(
        (plan.n == 1 or o.reduce_strides == (ITEMSIZE[o.dtype],))
        and (plan.rows == 1 or o.batch_strides == (ITEMSIZE[o.dtype] * plan.n,))
        for i, o in enumerate(problem.operands)
        if KERNELS[plan.op].along_rows(i)
    )
    if dense:
        return "the rows lie one after the other"
    return f"{dims} folded dimensions are walked by their strides"


def with_noun(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")
