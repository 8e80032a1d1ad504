"""From a checked call to launches: the only module that touches CuPy's kernels.

What a kind of call needs (plan, binaries, layout) is made once and kept by its signature; a call
after that allocates its result and launches. The machine behind is a *backend*: the GPU through
`cupy.RawKernel`, or whatever the emulator pushes on top of it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cache, cached_property, partial
from math import prod
from typing import Any, Protocol

import numpy as np

from cusoftmax import _source
from cusoftmax._checks import Array, Axis, as_outs, check_outs
from cusoftmax._device import DeviceSpec
from cusoftmax._ops import KERNELS, find
from cusoftmax._plan import Kernel, Plan
from cusoftmax._planner import plan
from cusoftmax._problem import Prepared, build, k_order, problem_for, signature

# grid, block, arguments, bytes of dynamic shared memory: as cupy.cuda.Function is called.
Loaded = Callable[[tuple[int], tuple[int], tuple[Any, ...], int], None]


class Backend(Protocol):
    """A machine that runs kernels."""

    @property
    def device(self) -> DeviceSpec: ...

    @property
    def key(self) -> Hashable: ...

    def check_place(self, op: str, array: Array) -> None: ...

    def load(self, kernel: Kernel) -> Loaded: ...

    def by_value(self, struct: np.ndarray[Any, Any]) -> Any: ...

    def to_host(self, array: Array) -> np.ndarray[Any, Any]: ...


class CudaBackend:
    """The current CuPy device."""

    @property
    def device(self) -> DeviceSpec:
        return DeviceSpec.current()

    @property
    def key(self) -> Hashable:
        return self._current_number()

    @cached_property
    def _current_number(self) -> Callable[[], int]:
        import cupy  # once: an import statement costs more than asking for the device

        number: Callable[[], int] = cupy.cuda.get_device_id
        return number

    def check_place(self, op: str, array: Array) -> None:
        if array.data.device_id != self.key:
            raise ValueError(
                f"{op}: the arrays are on device {array.data.device_id}, but device {self.key} is "
                f"current; call within `with cupy.cuda.Device({array.data.device_id}):`"
            )

    def load(self, kernel: Kernel) -> Loaded:
        return _load(kernel, self.device, self.key)

    def by_value(self, struct: np.ndarray[Any, Any]) -> Any:
        """Return the argument of a launch that passes `struct`, which must outlive it, by value.

        CuPy takes NumPy's structs too, but converts them in each launch, and not in all versions.
        """
        import cupy

        return cupy.cuda.function.CPointer(struct.ctypes.data)

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        """Copy an array to the host, which waits for the device."""
        copied: np.ndarray[Any, Any] = array.get()
        return copied


@cache
def _load(kernel: Kernel, device: DeviceSpec, number: Hashable) -> Loaded:
    import cupy

    raw = cupy.RawKernel(_source.code(), kernel.name, options=_source.options(kernel))
    # More than 48 KiB has to be allowed, function by function; a launch asks for what it needs.
    raw.max_dynamic_shared_size_bytes = device.shared_per_block
    function: Loaded = raw.kernel  # compiled and loaded by the line above, on the current device
    return function


_backends: list[Backend] = [CudaBackend()]
_calls: dict[Hashable, _Call] = {}
_CALLS_KEPT = 4096


def push_backend(backend: Backend) -> None:
    """Run everything on `backend` until it is popped."""
    _backends.append(backend)


def pop_backend(backend: Backend) -> None:
    """Undo the push of `backend`, which must be the last one."""
    if _backends[-1] is not backend:
        raise RuntimeError("backends must be popped in the reverse order of their pushing")
    _backends.pop()


class _Call:
    """All that calls of one signature have in common.

    Attributes
    ----------
    allocate : callable
        Makes the result where `out` is not given; several of them as a tuple.
    several : bool
        Whether there are.
    allocate_workspace : callable
        Makes the workspace of `before`.
    reaches : tuple
        `Prepared.reaches`.
    before, last : tuple
        What to launch: kernel, grid, block, bytes of shared memory. An array of no elements has
        no last one.
    parts : bool
        Whether the launches before the last write a part of the results each; else they get
        `absent`.
    absent : tuple of None
        For the results, in the launches before the last.
    layout : tuple
        `csm::Layout` as the last call had it: the call's numbers, the memory that it is in, and the
        argument. Calls that only differ in these numbers, such as a seed, differ in nothing else.
    """

    __slots__ = (
        "_acc",
        "_by_value",
        "_numbers",
        "absent",
        "allocate",
        "allocate_workspace",
        "before",
        "last",
        "layout",
        "parts",
        "reaches",
        "several",
    )

    def __init__(self, prepared: Prepared, backend: Backend, options: tuple[float, ...]) -> None:
        made = plan(prepared.problem, backend.device)
        makers = [_allocator(r.shape, r.strides, r.dtype) for r in prepared.results]
        self.several = len(makers) > 1
        self.allocate = (lambda: tuple([m() for m in makers])) if self.several else makers[0]
        self.allocate_workspace = _allocator((made.workspace_bytes,), (1,), np.dtype(np.uint8))
        self.reaches = prepared.reaches
        self.absent = (None,) * len(makers)
        self.parts = not all(launch.kernel.writes_all for launch in made.launches)
        self.layout: tuple[tuple[float, ...], Any, Any] = (options, None, None)
        if made.launches:
            self._numbers, self._by_value = layout_of(made), backend.by_value
            self._acc = made.launches[0].kernel["CSM_ACC"]
            self.layout = self.layout_with(options)
        steps = [
            (backend.load(s.kernel), (s.grid,), (s.block,), s.shared_bytes) for s in made.launches
        ]
        self.before = steps[:-1]
        self.last = steps[-1] if steps else None

    def layout_with(self, options: tuple[float, ...]) -> tuple[tuple[float, ...], Any, Any]:
        """Return `layout` with other numbers of the call, in memory of its own.

        Another thread may be launching with the last one.
        """
        numbers = self._numbers.copy()
        if options:
            numbers[-len(options) :] = encoded(options, self._acc)
        struct = as_struct(numbers)
        return options, struct, self._by_value(struct)


def _allocator(
    shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any]
) -> Callable[[], Any]:
    """Return what makes arrays as described, by the allocator that is then set in CuPy."""
    import cupy

    # Strides of 0 rank no dimension before another: C order.
    if strides == k_order(shape, (0,) * len(shape), dtype.itemsize):
        plain: Callable[[], Any] = partial(cupy.ndarray, shape, dtype)  # all that cupy.empty does
        return plain
    size = prod(shape) * dtype.itemsize
    return lambda: cupy.ndarray(shape, dtype, cupy.cuda.alloc(size), strides)


def layout_of(made: Plan) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the words of `csm::Layout` (machine/config.cuh) of a plan's kernels.

    The last of them, the numbers that come with a call, are 0.
    """
    problem = made.problem
    kernel = made.launches[0].kernel
    batch_dims, row_dims = int(kernel["CSM_BATCH_DIMS"]), int(kernel["CSM_ROW_DIMS"])
    batch_shape: Sequence[int] = problem.batch_shape
    batches = [o.batch_strides for o in problem.operands]
    inner, inner_strides = 1, [0] * len(batches)
    if made.pattern == "column":
        inner, inner_strides = batch_shape[-1], [b[-1] for b in batches]
        batch_shape, batches = batch_shape[:-1] or (1,), [b[:-1] or (0,) for b in batches]

    def padded(values: Sequence[int], dims: int) -> list[int]:
        return [*values, *[0] * (dims - len(values))]

    numbers = [
        problem.n,
        problem.rows,
        made.rounds,
        len(batch_shape),
        len(problem.reduce_shape),
        inner,
        problem.segments,
        made.checkers,
    ]
    numbers += inner_strides
    numbers += padded(batch_shape, batch_dims) + padded(problem.reduce_shape, row_dims)
    for strides in batches:
        numbers += padded(strides, batch_dims)
    for operand in problem.operands:
        numbers += padded(operand.reduce_strides, row_dims)
    numbers += [0] * max(1, len(KERNELS[made.op].options))
    return np.array(numbers, np.int64)


def as_struct(words: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a copy of words as one value, which a launch takes as it is."""
    return np.asarray(words.view(f"V{words.nbytes}")[0])


class Rest(float):
    """A number of a call of which the kernel wants what its rounding to an Acc loses."""


def encoded(options: Sequence[float], acc: str) -> list[int]:
    """Return numbers as ``csm::Layout::option`` has them: an integer, or the bits of an Acc."""
    kind, bits = (np.float32, np.int32) if acc == "float" else (np.float64, np.int64)
    rounded = [k - float(kind(k)) if isinstance(k, Rest) else k for k in options]
    return [k if isinstance(k, int) else int(kind(k).view(bits)) for k in rounded]


def run(
    op: str,
    inputs: tuple[Array, ...],
    axis: Axis,
    dtype: Any,
    out: Array | tuple[Array, ...] | None,
    keepdims: bool = False,
    options: tuple[float, ...] = (),
) -> Any:
    """Run one public operation: check, plan and load on the first call of a kind, then launch.

    Returns the result, or a tuple where the operation has several.
    """
    backend = _backends[-1]
    outs = () if out is None else as_outs(op, out) if type(out) is tuple else (out,)
    # Of the numbers that come with a call, the plan depends on how many elements are selected.
    planned = options[:1] if options and find(op).selects else ()
    sign = signature(op, inputs, axis, dtype, outs, keepdims, planned)
    try:
        key = (sign, backend.key)
    except Exception:
        # A mistake in the call is told before a missing GPU.
        build(op, inputs, axis, dtype, outs, keepdims, planned)
        raise
    call = _calls.get(key)
    if call is None:
        prepared = build(op, inputs, axis, dtype, outs, keepdims, planned)
        backend.check_place(op, inputs[0])
        call = _Call(prepared, backend, options)
        if len(_calls) >= _CALLS_KEPT:
            _calls.clear()
        _calls[key] = call
    if outs:
        check_outs(op, inputs, outs, call.reaches)
    else:
        made = call.allocate()
        outs = made if call.several else (made,)
    if call.last is not None:
        layout = call.layout
        if layout[0] != options:
            call.layout = layout = call.layout_with(options)
        workspace = _run_before_last(call, inputs, outs, layout[2]) if call.before else None
        kernel, grid, block, shared = call.last
        kernel(grid, block, (*inputs, *outs, workspace, layout[2]), shared)
    return outs if call.several else outs[0]


def check(
    op: str,
    inputs: tuple[Array, ...],
    axis: Axis,
    dtype: Any,
    out: Array | tuple[Array, ...] | None,
) -> None:
    """Raise what `run` would, for a function that runs something else before."""
    outs = () if out is None else as_outs(op, out)
    prepared = build(op, inputs, axis, dtype, outs)
    check_outs(op, inputs, outs, prepared.reaches)


def broadcast(op: str, name: str, array: Array, first: str, model: Array) -> Array:
    """Return `array` as a view of the shape of `model`; ValueError if it cannot be one."""
    try:
        if array.shape == model.shape:
            return array
        import cupy

        return cupy.broadcast_to(array, model.shape)
    except (AttributeError, TypeError):
        return array  # no array of CuPy's: what checks it says so
    except ValueError:
        raise ValueError(
            f"{op}: {name} has shape {array.shape}, which does not broadcast to that of {first}, "
            f"{model.shape}; give {name} that shape, or sizes of 1"
        ) from None


def broadcast_to(array: Array, shape: tuple[int, ...]) -> Array:
    """Return an array of the library's own as a view of a shape."""
    import cupy

    return cupy.broadcast_to(array, shape)


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return a new array of any values."""
    import cupy

    return cupy.ndarray(shape, dtype)


def repeated(op: str, name: str, array: Array) -> Array:
    """Return a view of shape (..., n, n) in which each row of `array` is repeated n times."""
    try:
        shape = array.shape
        if not shape:
            raise ValueError(f"{op}: {name} has no dimensions; give it at least one")
        import cupy

        return cupy.broadcast_to(array[..., None, :], (*shape, shape[-1]))
    except (AttributeError, TypeError):
        return array  # no array of CuPy's: what checks it says so


def _run_before_last(
    call: _Call, inputs: tuple[Array, ...], outs: tuple[Array, ...], layout: Any
) -> Any:
    """Run all launches but the last; return the workspace that they write."""
    # Of this call alone, so calls on other streams cannot meet in it; CuPy's pool hands it on only
    # to work that is later on the same stream.
    workspace = call.allocate_workspace()
    given = outs if call.parts else call.absent
    for kernel, grid, block, shared in call.before:
        kernel(grid, block, (*inputs, *given, workspace, layout), shared)
    return workspace


def explain(
    op: str,
    shape: Sequence[int],
    dtype: Any,
    axis: Axis,
    arch: str | int | None,
    out_dtype: Any,
    order: str,
    k: int | None = None,
) -> Plan:
    """Return the plan for contiguous arrays of a shape, on a named or on the present GPU."""
    problem = problem_for(op, shape, dtype, axis, out_dtype, order, k)
    return plan(problem, DeviceSpec.known(arch) if arch is not None else present_device())


def to_host(array: Array) -> np.ndarray[Any, Any]:
    """Copy an array from the active backend to the host; the only thing that waits for it."""
    return _backends[-1].to_host(array)


def present_device() -> DeviceSpec:
    """Return the device of the active backend, or an H100's figures where there is no GPU."""
    backend = _backends[-1]
    if isinstance(backend, CudaBackend) and not gpu_is_present():
        return DeviceSpec.known(90)
    return backend.device


def gpu_is_present() -> bool:
    """Whether CuPy is installed and sees a GPU."""
    try:
        import cupy

        return int(cupy.cuda.runtime.getDeviceCount()) > 0
    except Exception:  # no CuPy, no driver, no device: each raises something else
        return False


def warmup(
    ops: Sequence[str],
    shapes: Sequence[Sequence[int]],
    dtypes: Sequence[Any],
    axis: Axis,
    k: int | None = None,
) -> None:
    """Compile and load, on the active backend, what contiguous arrays of these shapes will need."""
    backend = _backends[-1]
    for op in ops:
        for shape in shapes:
            for dtype in dtypes:
                problem = problem_for(op, shape, dtype, axis, k=k)
                for step in plan(problem, backend.device).launches:
                    backend.load(step.kernel)
