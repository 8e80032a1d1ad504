"""The same call on the kernels' source and on their PTX: do all bits agree?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from cusoftmax import emulator
from cusoftmax.emulator import _backend, _run
from cusoftmax.runtime import launch
from tests.support import bits


@contextlib.contextmanager
def workspaces() -> Iterator[list[np.ndarray]]:
    """Yield a list that gets a copy of the workspace after each launch that has one."""
    seen: list[np.ndarray] = []
    run = _run.EmulatedKernel.launch

    def noting(kernel: Any, grid: int, block: int, args: Any, *rest: Any, **named: Any) -> Any:
        traffic = run(kernel, grid, block, args, *rest, **named)
        if args[-2] is not None:
            word = np.float64 if "_f64_" in kernel.name else np.float32
            raw = emulator.asnumpy(args[-2])
            seen.append(raw[: raw.size // 8 * 8].view(word))
        return traffic

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_run.EmulatedKernel, "launch", noting)
        yield seen


@contextlib.contextmanager
def compiled_for(arch: str) -> Iterator[None]:
    """Run the PTX of this architecture, whichever is planned for."""
    kernel_of = _backend._ptx_kernel
    with pytest.MonkeyPatch.context() as patch:
        number = int(arch.removeprefix("sm_"))
        patch.setattr(_backend, "_ptx_kernel", lambda kernel, _: kernel_of(kernel, number))
        launch._calls.clear()
        yield
    launch._calls.clear()


def outcome(call: Callable[[], Any], code: str, arch: str, seed: int = 0) -> list[np.ndarray]:
    """Return the results of a call on the emulator, and after them the workspaces."""
    with emulator.activate(arch, seed, code), workspaces() as seen:
        found = call()
        results = found if isinstance(found, tuple) else (found,)
        return [*map(emulator.asnumpy, results), *seen]


def difference(source: list[np.ndarray], ptx: list[np.ndarray]) -> str | None:
    """Return where the first bits of two outcomes differ, NaN being NaN; or None."""
    assert len(source) == len(ptx)
    for i, (a, b) in enumerate(zip(source, ptx, strict=True)):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        differs = bits(a) != bits(b)
        if a.dtype.kind not in "iub":  # floats, bfloat16 too
            differs &= ~(np.isnan(a.astype(np.float64)) & np.isnan(b.astype(np.float64)))
        if differs.any():
            at = tuple(int(k) for k in np.argwhere(differs)[0])
            return f"array {i} of {len(source)}, at {at}: {a[at]!r} and {b[at]!r}"
    return None
