"""What `cusoftmax.torch` costs beside the kernels: host time of a call, and memory of a loss.

    python -m benchmarks.torch_costs [--rounds 40] [--sizes 256x64x2048 ...]

Needs PyTorch, and no GPU. The first table has host times up to the launch, which is replaced by
nothing, beside those of `torch.softmax` on tensors without values, which computes nothing either.
Times are the thread's processor time, medians over rounds that time all statements one after the
other. On a GPU, entering PyTorch's stream comes on top.

The second has the peak of memory allocated by forward and backward pass of an output layer's loss,
beyond the inputs: by formula, and for the sizes given (rows x hidden x classes) as PyTorch's
profiler counts its allocations on the CPU, where the kernels run on the emulator.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Callable, Hashable
from time import thread_time
from timeit import Timer
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from cusoftmax import emulator
from cusoftmax.cli.output import let_any_character_print
from cusoftmax.emulator._backend import EmulatorBackend
from cusoftmax.planning.plan import Kernel
from cusoftmax.runtime import backend
from cusoftmax.runtime.backend import Loaded

if TYPE_CHECKING:
    import torch

SMALL = (8, 32)
STATED = (4096, 4096, 32000)  # rows, hidden, classes: for which the formulas are printed
STATED_IN_CHUNKS = (*STATED, 524)
UNCOMPENSATED = "ct.linear_cross_entropy, compensated=False"
MIB = 1 << 20


# ------------------------------------------------------------------------------------- host time


class SilentBackend(EmulatorBackend):
    """Plans as the emulator does, and launches nothing."""

    @property
    def key(self) -> Hashable:
        return ("silent", super().key)

    def load(self, kernel: Kernel) -> Loaded:
        return lambda *_: None


def host_times(rounds: int) -> list[tuple[str, list[float]]]:
    """Return statements, and seconds of one execution in each round."""
    import torch

    import cusoftmax as cs
    import cusoftmax.torch as ct

    x, leaf = torch.zeros(SMALL), torch.zeros(SMALL, requires_grad=True)
    names = {
        "torch": torch,
        "cs": cs,
        "ct": ct,
        "x": x,
        "leaf": leaf,
        "meta": x.to("meta"),
        "meta_leaf": leaf.detach().to("meta").requires_grad_(),
        "array": emulator.asarray(x.numpy()),
    }
    statements = (
        "torch.softmax(meta, -1)",
        "torch.softmax(meta_leaf, -1)",
        "ct.softmax(x, -1)",
        "ct.softmax(leaf, -1)",
        "cs.softmax(array)",
    )
    timed = [(text, Timer(text, timer=thread_time, globals=names), []) for text in statements]
    for _, timer, _ in timed:
        timer.timeit(100)
    for _ in range(rounds):
        for _, timer, seconds in random.sample(timed, len(timed)):
            seconds.append(timer.timeit(100) / 100)
    return [(text, seconds) for text, _, seconds in timed]


def report_host(timed: list[tuple[str, list[float]]]) -> Table:
    """Return the table of host times."""
    table = Table(title="Host time up to the launch, microseconds")
    table.add_column("call")
    table.add_column("median", justify="right")
    table.add_column("over torch.softmax", justify="right")
    first = timed[0][1]
    for text, seconds in timed:
        ratio = statistics.median(a / b for a, b in zip(seconds, first, strict=True))
        table.add_row(text, f"{statistics.median(seconds) * 1e6:.1f}", f"{ratio:.2f}")
    return table


# ---------------------------------------------------------------------------------------- memory


def peak(call: Callable[[], object]) -> int:
    """Return the most bytes that PyTorch held on the CPU during a call, beyond those before it."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    events = recorded.profiler.kineto_results.events()  # type: ignore[union-attr]
    held = highest = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest


def losses() -> dict[str, Callable[..., Any]]:
    """Return the ways to a loss of hidden, weight and target."""
    import torch

    import cusoftmax.torch as ct

    linear = torch.nn.functional.linear
    return {
        "torch": lambda h, w, t, chunk: torch.nn.functional.cross_entropy(linear(h, w), t),
        "ct.cross_entropy": lambda h, w, t, chunk: ct.cross_entropy(linear(h, w), t),
        "ct.linear_cross_entropy": lambda h, w, t, chunk: ct.linear_cross_entropy(
            h, w, t, chunk=chunk
        ),
        UNCOMPENSATED: lambda h, w, t, chunk: ct.linear_cross_entropy(
            h, w, t, chunk=chunk, compensated=False
        ),
    }


def formula(way: str, rows: int, hidden: int, classes: int, chunk: int, size: int) -> int:
    """Return the peak in bytes, for elements of `size` bytes."""
    logits, layer, inputs = rows * classes * size, hidden * classes * size, rows * hidden * size
    if way == "torch":  # the logarithms, their gradient, and that of the logits
        return max(3 * logits, logits + layer + inputs)
    if way == "ct.cross_entropy":  # the logits and their gradient
        return max(2 * logits, logits + layer + inputs)
    # A chunk's logits and the gradients. That of 16-bit weights is summed in two, through parts of
    # a chunk's product that take up to as much as the logits.
    chunks = chunk * classes * size
    if size > 2 or way == UNCOMPENSATED:
        return chunks + layer + inputs
    return 2 * chunks + 2 * layer + inputs


def measured(way: str, rows: int, hidden: int, classes: int, chunk: int, dtype: torch.dtype) -> int:
    """Return the peak in bytes of one forward and backward pass.

    Without oneDNN, which copies a bfloat16 product's operands where the processor has instructions
    for them: memory of the CPU's products, no part of a GPU's.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    h, w = (torch.randn(n, hidden, generator=generator).to(dtype) for n in (rows, classes))
    target = torch.randint(classes, (rows,), generator=generator)
    leaves = [tensor.requires_grad_() for tensor in (h, w)]
    run = losses()[way]
    with torch.backends.mkldnn.flags(enabled=False):
        run(*leaves, target, chunk).backward()  # plans and builds the kernels
        for leaf in leaves:
            leaf.grad = None
        return peak(lambda: run(*leaves, target, chunk).backward())


def default_chunk(rows: int, hidden: int, classes: int) -> int:
    """Return what `linear_cross_entropy` chooses."""
    return max(128, rows * hidden // classes)


def report_memory(sizes: list[tuple[int, int, int]]) -> Table:
    """Return the table of peaks."""
    table = Table(title="Peak memory of a loss and its gradients, MiB")
    for name in ("rows x hidden x classes", "dtype", "chunk", "loss"):
        table.add_column(name)
    for name in ("formula", "measured"):
        table.add_column(name, justify="right")
    import torch

    for shape in (STATED, *sizes):
        chunk = min(default_chunk(*shape), max(shape[0] // 4, 1))
        for dtype in (torch.float32, torch.bfloat16):
            for way in losses():
                if way == UNCOMPENSATED and dtype.itemsize > 2:
                    continue
                by_formula = formula(way, *shape, chunk, dtype.itemsize)
                held = None if shape == STATED else measured(way, *shape, chunk, dtype) / MIB
                table.add_row(
                    *(" x ".join(map(str, shape)), str(dtype).removeprefix("torch.")),
                    *(str(chunk), way, f"{by_formula / MIB:.2f}"),
                    "" if held is None else f"{held:.2f}",
                )
    return table


def size(text: str) -> tuple[int, int, int]:
    """Return rows, hidden and classes from a text such as ``256x64x2048``."""
    rows, hidden, classes = map(int, text.split("x"))
    return rows, hidden, classes


def main() -> int:
    let_any_character_print()
    parser = argparse.ArgumentParser(description="Host time and memory of cusoftmax.torch.")
    parser.add_argument("--rounds", type=int, default=40, help="batches of each call")
    parser.add_argument(
        "--sizes", type=size, nargs="*", default=[(256, 64, 2048)], help="to measure memory at"
    )
    given = parser.parse_args()
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed")
        return 1
    console = Console(width=None if sys.stdout.isatty() else 120)  # a file has no width
    with emulator.activate():
        silent = SilentBackend()
        backend.push_backend(silent)
        try:
            console.print(report_host(host_times(given.rounds)))
        finally:
            backend.pop_backend(silent)
        console.print(report_memory(given.sizes))
    console.print(f"PyTorch {torch.__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
