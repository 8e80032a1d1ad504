"""CuPy on the emulated driver; test_cuda_driver.py runs these in a process of their own.

``python -m pytest -p tests.emulated_driver tests/emulator/driver_cases.py``
"""

from __future__ import annotations

import ctypes
import dataclasses
import pathlib
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cupy
import numpy as np
import pytest
from cupy_backends.cuda.api import driver, runtime

import cusoftmax as cs
from cusoftmax import emulator
from cusoftmax.emulator.cuda_driver import DriverError, Machine
from cusoftmax.emulator.cuda_driver.kernels import check_launch
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.runtime import launch
from cusoftmax.runtime.backend import CudaBackend, _load, active
from tests.conftest import CudaDevice
from tests.functions.foreign_libraries import ByCapsule, ByInterface, OfLibrary
from tests.support import check_softmax, logits, planned, run, run_softmax

X = logits((3, 500), "float32")
FREE_SHARED = 48 << 10


@pytest.fixture
def gpu() -> CudaDevice:
    """Return the half of the tests' `device` that is not the emulator."""
    assert type(active()) is CudaBackend
    return CudaDevice()


# ------------------------------------------------------------------------------- what CuPy is told


def test_the_device_is_the_one_that_was_asked_for(machine: Machine) -> None:
    found = DeviceSpec.current()
    assert found.name == f"{machine.spec.name}, emulated"
    assert dataclasses.replace(found, name=machine.spec.name) == machine.spec
    assert cupy.cuda.runtime.getDeviceCount() == 2


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: cupy.cuda.malloc_managed(8), "runtime.mallocManaged"),
        (lambda: cupy.cuda.runtime.mallocManaged(8), "runtime.mallocManaged"),
        (lambda: cupy.cuda.profiler.start(), "runtime.profilerStart"),
        (lambda: cupy.cuda.Stream(non_blocking=True).launch_host_func(print, 0), "launchHostFunc"),
        (lambda: driver.occupancyMaxPotentialBlockSize(0, 0, 0), "occupancyMaxPotentialBlockSize"),
    ],
)
def test_what_is_not_offered_is_named(call: Callable[[], Any], name: str) -> None:
    """From CuPy's compiled code and from Python, whatever the entry returns."""
    with pytest.raises(DriverError, match=f"{name}: the emulated driver does not offer it"):
        call()


def test_no_entry_of_the_real_driver_is_left() -> None:
    """But those that return a struct, which take handles that nothing makes, or call no driver."""
    for module in (driver, runtime):
        for name, found in vars(module).items():
            if callable(found) and not isinstance(found, type):
                kept = ("get_build_version", "check_status", "_export_enum")
                here = getattr(found, "__module__", "").startswith("cusoftmax.emulator")
                assert here or name in (*kept, "_getLocalRuntimeVersion"), name


def test_exceptions_pass_through_every_kind_of_result() -> None:
    """Objects, ints of several error values, and pointers, by way of CuPy's compiled callers."""
    with pytest.raises(runtime.CUDARuntimeError, match="no device 7"):
        cupy.cuda.Device(7).use()
    with pytest.raises(runtime.CUDARuntimeError, match="no device 7"):
        _ = cupy.cuda.Device(7).compute_capability

    class Foreign:
        def __cuda_stream__(self) -> tuple[int, int]:
            return 0, 0x77

    stream = cupy.cuda.Stream.from_external(Foreign())
    for asked in ("priority", "is_non_blocking", "done"):
        with pytest.raises(runtime.CUDARuntimeError, match="0x77 is no stream"):
            getattr(stream, asked)
    with pytest.raises(runtime.CUDARuntimeError, match="0x77 is no stream"):
        stream.is_capturing()
    with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
        cupy.cuda.MemoryPool().malloc(1 << 50)


def test_readme_s_example_runs_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    text = (pathlib.Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    names: dict[str, Any] = {}
    exec(example, names)
    assert repr(names["y"]).startswith("array([[0.")
    np.testing.assert_array_equal(names["x"].get(), names["y"].get())  # in place
    np.testing.assert_allclose(names["half"].get().sum(0), 1, rtol=1e-3)
    assert "csm_softmax_block_f16_v8" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------ memory


def test_copies_and_fills() -> None:
    given = np.arange(24, dtype=np.float32).reshape(4, 6)
    x = cupy.asarray(given)
    y = cupy.empty_like(x)
    assert np.isnan(y.get()).all(), "what nobody wrote is NaN"
    y.data.copy_from_device(x.data, x.nbytes)
    np.testing.assert_array_equal(y.get(), given)
    np.testing.assert_array_equal(x.T[::2].get(), given.T[::2])  # copied by a kernel of CuPy's
    x.data.memset(0, x.nbytes)
    assert not x.get().any() and y.get().any()
    assert runtime.pointerGetAttributes(x.data.ptr).type == runtime.memoryTypeDevice
    assert runtime.pointerGetAttributes(given.ctypes.data).type == runtime.memoryTypeUnregistered


def test_copies_beyond_an_allocation_or_of_another_kind_are_refused() -> None:
    x = cupy.empty(10, np.float32)
    host = np.empty(20, np.float32)
    for call, said in (
        (lambda: x.data.copy_from_host(ctypes.c_void_p(host.ctypes.data), 80), "allocation ends"),
        (lambda: x.data.memset(0, 41), "allocation ends"),
        (lambda: runtime.memcpy(x.data.ptr, host.ctypes.data, 40, 2), "to host from device"),
        (lambda: runtime.memset(host.ctypes.data, 0, 8) or x.get(), "no memory of a device"),
        (lambda: runtime.free(x.data.ptr + 4) or x.get(), "no allocation"),
    ):
        with pytest.raises(runtime.CUDARuntimeError, match=said):
            call()


def test_freed_memory_is_not_accessed(gpu: CudaDevice) -> None:
    x = gpu.asarray(X)
    backed = runtime.malloc(X.nbytes)
    memory = cupy.cuda.UnownedMemory(backed, X.nbytes, None, 0)
    out = cupy.ndarray(X.shape, X.dtype, cupy.cuda.MemoryPointer(memory, 0))
    cs.softmax(x, out=out)
    check_softmax(gpu.asnumpy(out), X)
    runtime.free(backed)
    with pytest.raises(emulator.KernelError, match="out of bounds"):
        cs.softmax(x, out=out)
        cupy.cuda.Device().synchronize()


# ----------------------------------------------------------------------------- streams and devices


def test_a_stream_runs_what_is_put_on_it_when_it_is_waited_for(
    machine: Machine, gpu: CudaDevice
) -> None:
    x = gpu.asarray(X)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        y = cs.softmax(x)
        assert not machine.launches, "nobody has waited"
        stream.synchronize()
        assert stream.done
        check_softmax(y.get(), X)
    (ran,) = machine.launches
    assert ran.stream == stream.ptr and ran.device == 0


def test_a_result_that_is_read_on_another_stream_has_to_be_waited_for(gpu: CudaDevice) -> None:
    x = gpu.asarray(X)
    first, second = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
    for waits in (False, True):
        with first:
            y = cs.softmax(x)
            event = first.record()
        with second:
            if waits:
                second.wait_event(event)
            got = y.get(stream=second)
        if waits:
            check_softmax(got, X)
        else:
            assert np.isnan(got).all()
        first.synchronize()


def test_the_default_stream_and_blocking_ones_wait_for_each_other(gpu: CudaDevice) -> None:
    stream = cupy.cuda.Stream()
    x = gpu.asarray(X)
    with stream:
        y = cs.softmax(x)
    check_softmax(y.get(stream=cupy.cuda.Stream.null), X)


# ------------------------------------------------------------------- arrays of other libraries


def to_come(stream: Any, array: Any, values: Any) -> None:
    """Let a stream write values into an array, some time later."""
    array.data.copy_from_device_async(values.data, values.nbytes, stream)


def test_both_streams_keep_their_order_by_dlpack(machine: Machine, gpu: CudaDevice) -> None:
    """The library's stream writes the input before the call, and again after it."""
    theirs, ours = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
    values, others = gpu.asarray(X), gpu.asarray(X[::-1])
    kept = []  # to free an array is to wait
    null = cupy.cuda.Stream.null
    for current, number, first in (
        *((ours, ours.ptr, each) for each in (ours, theirs)),
        *((null, 1, each) for each in (null, theirs)),
    ):
        x = OfLibrary(gpu.asarray(0 * X), theirs)
        to_come(theirs, x.array, values)
        with current:
            y = cs.softmax(x)
        to_come(theirs, x.array, others)
        kept += [x, y]
        assert not machine.launches, "the host waited"
        assert x.streams == [number] and type(y) is OfLibrary
        first.synchronize()
        check_softmax(y.array.get(stream=theirs), X)
        machine.launches.clear()


def test_both_streams_keep_their_order_by_the_interface(machine: Machine, gpu: CudaDevice) -> None:
    theirs, ours = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
    values, others = gpu.asarray(X), gpu.asarray(X[::-1])
    kept = []  # to free an array is to wait
    null = cupy.cuda.Stream.null
    for stream, on, first in (
        *((theirs.ptr, theirs, each) for each in (ours, theirs)),
        *((1, null, each) for each in (ours, null)),
        (None, theirs, ours),
    ):
        x = ByInterface(gpu.asarray(0 * X), stream=stream)
        to_come(on, x.array, values)
        with ours:
            y = cs.softmax(x)
        to_come(on, x.array, others)
        kept += [x, y]
        assert not machine.launches, "the host waited"
        first.synchronize()
        # Without a stream, nothing says that anything is to come.
        check_softmax(y.get(stream=ours), 0 * X if stream is None else X)
        machine.launches.clear()


def test_what_is_written_for_another_stream_is_waited_for_there(
    machine: Machine, gpu: CudaDevice
) -> None:
    theirs, ours = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
    x = gpu.asarray(X)
    outs = (
        OfLibrary(gpu.asarray(0 * X), theirs),
        ByInterface(gpu.asarray(0 * X), stream=theirs.ptr),
    )
    for out in outs:
        with ours:
            assert cs.softmax(x, out=out) is out
        assert not machine.launches, "the host waited"
        check_softmax(out.array.get(stream=theirs), X)
        machine.launches.clear()


def test_arrays_on_the_current_stream_wait_for_nothing(machine: Machine, gpu: CudaDevice) -> None:
    """So that a capture takes them."""
    stream = cupy.cuda.Stream(non_blocking=True)
    x, y = (ByInterface(gpu.asarray(X), stream=stream.ptr) for _ in range(2))
    with stream:
        cs.softmax(x, out=y)  # compiles
        stream.begin_capture()
        cs.softmax(x, out=y)
        graph = stream.end_capture()
        graph.launch()
        check_softmax(y.array.get(stream=stream), X)
    assert len(machine.launches) == 2


def test_arrays_of_another_device_or_nowhere(gpu: CudaDevice) -> None:
    with cupy.cuda.Device(1):
        there = gpu.asarray(X)
    for made in (OfLibrary, ByInterface):
        with pytest.raises(ValueError, match=r"softmax: x is on device 1, but device 0 is current"):
            cs.softmax(made(there))
        with cupy.cuda.Device(1):
            y = cs.softmax(made(there))
            check_softmax(getattr(y, "array", y).get(), X)
        with pytest.raises(ValueError, match="softmax: out is on device 1"):
            cs.softmax(gpu.asarray(X), out=made(there))
    empty = gpu.asarray(X[:0])
    assert cs.softmax(ByInterface(empty, data=(0, False))).shape == (0, X.shape[1])
    with pytest.raises(TypeError, match=r"x is a .*ByCapsule in host memory"):
        cs.softmax(ByCapsule(X))
    for made in (OfLibrary, ByInterface):
        here = made(gpu.asarray(X))
        with emulator.activate(), pytest.raises(TypeError, match="on a GPU, and the emulator runs"):
            cs.softmax(here)


def test_events_end_loops_and_take_times(gpu: CudaDevice) -> None:
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    cs.softmax(gpu.asarray(X))
    end.record()
    while not end.done:
        pass
    assert cupy.cuda.get_elapsed_time(start, end) > 0


def test_a_failure_that_a_destructor_met_is_raised_later(gpu: CudaDevice) -> None:
    x = gpu.asarray(X)
    backed = runtime.malloc(X.nbytes - 4)
    memory = cupy.cuda.UnownedMemory(backed, X.nbytes, None, 0)
    cs.softmax(x, out=cupy.ndarray(X.shape, X.dtype, cupy.cuda.MemoryPointer(memory, 0)))
    del x  # frees, and so waits
    with pytest.raises(emulator.KernelError, match="out of bounds"):
        cupy.cuda.Device().synchronize()
    cupy.cuda.Device().synchronize()
    runtime.free(backed)


def test_two_devices(machine: Machine, gpu: CudaDevice) -> None:
    x = gpu.asarray(X)
    y = run_softmax(gpu, X)
    with cupy.cuda.Device(1), ThreadPoolExecutor(1) as pool:
        assert pool.submit(runtime.getDevice).result() == 0, "of each thread"
        elsewhere = cupy.array(x)  # a copy from one to the other
        assert elsewhere.data.device_id == 1
        np.testing.assert_array_equal(elsewhere.get(), X)
        np.testing.assert_array_equal(run_softmax(gpu, X), y)
        with pytest.raises(ValueError, match="the arrays are on device 0, but device 1 is current"):
            cs.softmax(x)
    assert [ran.device for ran in machine.launches] == [0, 1]
    with pytest.raises(ValueError, match="the arrays are on device 1, but device 0 is current"):
        cs.softmax(elsewhere)
    with pytest.raises(ValueError, match="on device"):
        cs.softmax(x, out=elsewhere)


def loaded(op: str = "softmax", shape: tuple[int, int] = X.shape) -> Any:
    """Return the package's own kernel of a call, as CuPy loads it."""
    plan = planned(op, "float32", shape, -1, CudaDevice().arch)
    (step,) = plan.launches
    return CudaBackend().load(step.kernel), step


def test_a_kernel_is_loaded_for_a_device(gpu: CudaDevice) -> None:
    function, step = loaded()
    with cupy.cuda.Device(1):
        other, _ = loaded()
        assert other is not function
        with pytest.raises(DriverError, match="loaded on device 0, and device 1 is current"):
            function((step.grid,), (step.block,), (None,) * 4, 0)


def test_the_driver_itself_refuses_arrays_of_another_device(gpu: CudaDevice) -> None:
    with cupy.cuda.Device(1):
        elsewhere = gpu.asarray(X)
    function, step = loaded()
    struct = np.zeros(64, np.int64)
    arguments = (elsewhere, elsewhere, None, CudaBackend().by_value(struct))
    function((step.grid,), (step.block,), arguments, step.shared_bytes)
    with pytest.raises(DriverError, match="argument 0 is on device 1, and the launch on device 0"):
        cupy.cuda.Device().synchronize()


def test_a_stream_of_another_device_is_refused(gpu: CudaDevice) -> None:
    with cupy.cuda.Device(1):
        stream = cupy.cuda.Stream()
    raw = cupy.RawKernel('extern "C" __global__ void nothing() {}', "nothing")
    with pytest.raises(runtime.CUDARuntimeError, match="the stream is of device 1"):
        raw.kernel((1,), (1,), (), stream=stream)


# ---------------------------------------------------------------------------------------- captures


@pytest.mark.parametrize("shape", [(3, 500), (1, 1 << 17)])
def test_a_capture_records_launches_and_replays_them(
    machine: Machine, gpu: CudaDevice, shape: tuple[int, int]
) -> None:
    """One launch, and two with a workspace between them."""
    count = len(planned("softmax", "float32", shape, -1, gpu.arch).launches)
    given = [logits(shape, "float32", seed=seed) for seed in range(3)]
    x = gpu.asarray(given[0])
    y = cupy.empty_like(x)
    # The workspace of a captured call has to stay allocated, as CuPy's pool keeps it.
    pool = cupy.cuda.MemoryPool()
    stream = cupy.cuda.Stream(non_blocking=True)
    with cupy.cuda.using_allocator(pool.malloc), stream:
        stream.begin_capture()
        assert stream.is_capturing()
        cs.softmax(x, out=y)
        with pytest.raises(runtime.CUDARuntimeError, match="cannot be waited for"):
            stream.synchronize()
        graph = stream.end_capture()
        stream.synchronize()
        assert not machine.launches, "only recorded"
        for source in given[1:]:
            x.set(source)
            graph.launch()
            check_softmax(y.get(), source)
    assert len(machine.launches) == count * 2
    assert {ran.stream for ran in machine.launches} == {stream.ptr}


def test_what_a_capture_cannot_have(gpu: CudaDevice) -> None:
    stream, other = cupy.cuda.Stream(), cupy.cuda.Stream(non_blocking=True)
    stream.begin_capture()
    event = stream.record()
    for call, said in (
        (lambda: gpu.asarray(X), "would wait for a stream in capture"),
        (event.synchronize, "recorded in a capture"),
        (stream.begin_capture, "in capture already"),
    ):
        with pytest.raises(runtime.CUDARuntimeError, match=said):
            call()
    with pytest.raises(DriverError, match="captures one stream"):
        other.wait_event(event)
    stream.end_capture()


# ----------------------------------------------------------------------------------------- modules


def test_shared_memory_has_to_be_asked_for(machine: Machine) -> None:
    raw = cupy.RawKernel(
        'extern "C" __global__ void last(float* y, int n) {'
        "  extern __shared__ float room[];"
        "  room[n] = 3.5f; y[0] = room[n]; }",
        "last",
    )
    y = cupy.empty(1, np.float32)
    most = machine.spec.shared_per_block

    def ask(nbytes: int) -> None:
        raw((1,), (1,), (y, np.int32(nbytes // 4 - 1)), shared_mem=nbytes)
        assert y.get()[0] == 3.5

    ask(FREE_SHARED)
    with pytest.raises(DriverError, match=r"49156 bytes .* unless cuFuncSetAttribute asked"):
        ask(FREE_SHARED + 4)
    with pytest.raises(DriverError, match=f"a block of sm_{machine.spec.arch} has {most}"):
        raw.max_dynamic_shared_size_bytes = most + 1
    raw.max_dynamic_shared_size_bytes = most
    assert raw.max_dynamic_shared_size_bytes == most
    ask(most)
    with pytest.raises(DriverError, match=f"but {most} are allowed"):
        ask(most + 4)
    raw((1,), (1,), (y, np.int32(FREE_SHARED // 4)), shared_mem=FREE_SHARED)
    with pytest.raises(emulator.KernelError, match="shared write of 4 bytes out of bounds"):
        y.get()


def test_the_package_asks_for_what_its_longest_resident_rows_need(
    machine: Machine, gpu: CudaDevice
) -> None:
    """A row that stays on the chip beyond what every kernel may have."""

    def shared(n: int) -> int:
        plan = planned("softmax_vjp", "float64", (1, n), -1, gpu.arch)
        return plan.launches[0].shared_bytes

    n = next(n for n in range(1 << 12, 1 << 18, 1 << 11) if shared(n) > FREE_SHARED)
    run(gpu, "softmax_vjp", logits((1, n), "float64"))
    assert machine.launches[-1].shared_bytes == shared(n) > FREE_SHARED


def test_launches_are_checked(gpu: CudaDevice) -> None:
    function, step = loaded()
    most = step.kernel.max_threads
    for grid, block, said in (
        ((1,), (most + 32,), f"launch bounds say {most}"),
        ((1, 2), (32,), "only x is emulated"),
        ((1 << 31,), (32,), "at most 2147483647 are allowed"),
    ):
        with pytest.raises((DriverError, OverflowError), match=said):
            function(grid, block, (None,) * 4, 0)


def test_a_grid_is_whole_clusters(gpu: CudaDevice, machine: Machine) -> None:
    if not machine.spec.clusters:
        pytest.skip(f"sm_{machine.spec.arch} has no clusters")
    function, step = loaded(shape=(5, 20001))
    assert step.kernel.cluster > 1
    struct = CudaBackend().by_value(np.zeros(64, np.int64))
    with pytest.raises(DriverError, match=f"in clusters of {step.kernel.cluster}"):
        function((step.kernel.cluster + 1,), (step.block,), (None,) * 3 + (struct,), 0)


def test_large_clusters_are_asked_for(gpu: CudaDevice, machine: Machine) -> None:
    """A driver allows 8 blocks unless it is told otherwise, and some chips have no more."""
    step = planned("logsumexp", "float32", (17, 131072), -1, gpu.arch).launches[0]
    assert step.kernel.cluster == 16
    function = _load(step.kernel, CudaBackend().device, CudaBackend().key)
    assert driver.funcGetAttribute(14, function.ptr) == 1
    struct = CudaBackend().by_value(np.zeros(64, np.int64))  # of no rows
    arguments = (None,) * (step.kernel.reads + step.kernel.writes + 1) + (struct,)

    def try_it() -> None:
        function((step.grid,), (step.block,), arguments, step.shared_bytes)
        cupy.cuda.Device().synchronize()

    try_it()
    assert machine.launches[-1].name == step.kernel.name
    driver.funcSetAttribute(function.ptr, 14, 0)
    with pytest.raises(DriverError, match="clusters of 16 blocks on sm_90, where 8 are allowed"):
        try_it()
    small = dataclasses.replace(machine.spec, arch=120)
    driver.funcSetAttribute(function.ptr, 14, 1)
    with pytest.raises(DriverError, match="clusters of 16 blocks on sm_120, where 8 are allowed"):
        check_launch(machine.functions[function.ptr], (16, 1, 1), (32, 1, 1), 0, small)


def test_only_ptx_for_the_device_is_loaded(machine: Machine) -> None:
    for image, said in (
        (b"\x7fELF", "no PTX cannot be loaded"),
        (b"//\n.version 8.8\n.target sm_121\n.address_size 64\n", "PTX for sm_121 does not run"),
        # Of another architecture's own features, and of another family's.
        (b"//\n.version 8.8\n.target sm_80a\n.address_size 64\n", "PTX for sm_80a does not run"),
        (b"//\n.version 8.8\n.target sm_75f\n.address_size 64\n", "PTX for sm_75f does not run"),
    ):
        with pytest.raises(DriverError, match=said):
            cupy.cuda.function.Module().load(image)


# --------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize("op", ["softmax", "softmax_vjp", "topk_softmax"])
def test_the_struct_has_the_size_that_the_kernel_reads(
    machine: Machine, gpu: CudaDevice, op: str
) -> None:
    """A driver copies as many bytes as the kernel has, whatever lies there."""
    x = gpu.asarray(X)
    launch._calls.clear()
    {"softmax": lambda: cs.softmax(x), "softmax_vjp": lambda: cs.softmax_vjp(x, x),
     "topk_softmax": lambda: cs.topk_softmax(x, 3)}[op]()  # fmt: skip
    struct = next(reversed(launch._calls.values())).layout[1]
    cupy.cuda.Device().synchronize()
    *pointers, size = machine.launches[-1].sizes
    assert size == struct.nbytes and set(pointers) == {8}


@pytest.mark.parametrize("shift", [-8, -4, 4, 8])
def test_a_struct_at_another_place_is_noticed(
    gpu: CudaDevice, monkeypatch: pytest.MonkeyPatch, shift: int
) -> None:
    """As if the two sides laid it out differently: a fault or a wrong result, never neither."""
    true = CudaBackend.by_value
    kept: list[Any] = []

    def shifted(self: CudaBackend, struct: Any) -> Any:
        room = np.zeros(struct.nbytes + 16, np.uint8)
        room[8 : 8 + struct.nbytes] = np.frombuffer(struct.tobytes(), np.uint8)
        kept.append(room)
        return cupy.cuda.function.CPointer(room.ctypes.data + 8 + shift)

    launch._calls.clear()
    monkeypatch.setattr(CudaBackend, "by_value", shifted)
    try:
        with pytest.raises((emulator.KernelError, AssertionError)):
            run_softmax(gpu, X)
    finally:
        launch._calls.clear()
    monkeypatch.setattr(CudaBackend, "by_value", true)
    run_softmax(gpu, X)


def test_none_is_a_null_pointer_and_no_missing_argument(machine: Machine) -> None:
    """CuPy passes None as 8 bytes of 0; before 14 it passed an argument without an address."""
    raw = cupy.RawKernel(
        'extern "C" __global__ void is_null(float* y, const float* x) { y[0] = x ? 1.f : 2.f; }',
        "is_null",
    )
    y = cupy.empty(1, np.float32)
    for given, want in ((None, 2), (y, 1)):
        raw((1,), (1,), (y, given))
        assert y.get()[0] == want
    addresses = (ctypes.c_uint64 * 2)()
    with pytest.raises(DriverError, match="argument 0 has no address"):
        driver.launchKernel(raw.kernel.ptr, 1, 1, 1, 1, 1, 1, 0, 0, ctypes.addressof(addresses), 0)
