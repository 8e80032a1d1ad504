"""The functions that CuPy finds in place of the CUDA runtime's and driver's.

The names of the methods, and the types of their parameters, are those of CuPy's modules
``cupy_backends.cuda.api.runtime`` and ``driver``. What has no method here is refused by name.
"""

from __future__ import annotations

import pathlib
import threading
from collections import deque
from typing import Annotated, Any

from cusoftmax.planning.device import DeviceSpec

from .. import ptx
from . import kernels
from .errors import (
    INVALID_DEVICE,
    INVALID_HANDLE,
    INVALID_VALUE,
    NOT_READY,
    DriverError,
    status_error,
)
from .kernels import Function, Launch, Module
from .memory import Memory
from .streams import Event, Handles, Stream, Streams, Work
from .tables import Handle, Size, Unsigned

_VERSION = 13000  # of CUDA, as the driver says it
_PAGEABLE, _PINNED, _DEVICE = 0, 1, 2  # cudaMemoryType
_DISABLE_TIMING = 2
_TOTAL = 16 << 30  # bytes of a device
_KEPT = 4096  # launches


class Machine:
    """Devices of one kind, and all that programs put on them."""

    def __init__(self, spec: DeviceSpec, devices: int, seed: int) -> None:
        self.spec = spec
        self.count = devices
        self.seed = seed
        self.lock = threading.RLock()
        self.memory = Memory(_TOTAL)
        self.streams = Streams(devices)
        self.modules: Handles[Module] = Handles("module", 0x40000)
        self.functions: Handles[Function] = Handles("function", 0x50000)
        self.launches: deque[Launch] = deque(maxlen=_KEPT)
        self._unfreed: list[int] = []
        self._of_thread = threading.local()

    @property
    def current(self) -> int:
        """The current device of this thread."""
        return getattr(self._of_thread, "device", 0)

    @current.setter
    def current(self, device: int) -> None:
        self.check_device(device)
        self._of_thread.device = device

    def check_device(self, device: int) -> None:
        """Refuse a device that is not there."""
        if not 0 <= device < self.count:
            raise status_error(INVALID_DEVICE, f"there is no device {device}, only {self.count}")

    def stream(self, handle: int) -> Stream:
        """Return the stream of a handle, for work of the current device."""
        stream = self.streams.get(handle, self.current)
        if stream.device != self.current:
            raise status_error(
                INVALID_HANDLE,
                f"the stream is of device {stream.device}, and device {self.current} is current",
            )
        return stream

    def put(self, handle: int, work: Work) -> Stream:
        """Put work on a stream; raise what failed before where nobody could be told."""
        self.report()
        stream = self.stream(handle)
        self.streams.put(stream, work)
        return stream

    def report(self) -> None:
        """Raise the failure that an entry without a status met."""
        failure, self.streams.failure = self.streams.failure, None
        if failure is not None:
            raise failure

    def free(self, pointer: int) -> None:
        """Wait for all devices, as cudaFree does, and give memory back.

        Python calls it wherever it drops an array, also while work runs. From a destructor nothing
        can be raised: what failed is for the next entry.
        """
        self._unfreed.append(pointer)
        if self.streams.running:
            return  # the next call gives it back
        try:
            for device in range(self.count):
                self.streams.synchronize_device(device)
        except Exception as failure:
            self.streams.failure = failure
        while self._unfreed:
            self.memory.release(self._unfreed.pop())


class RuntimeEntries:
    """``cupy_backends.cuda.api.runtime``."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._memory = machine.memory
        self._streams = machine.streams

    # ---- devices

    def _ensure_context(self) -> None: ...

    def driverGetVersion(self) -> int:
        return _VERSION

    def runtimeGetVersion(self) -> int:
        return _VERSION

    def _getCUDAMajorVersion(self) -> int:
        return _VERSION // 1000

    def getDeviceCount(self) -> int:
        return self._machine.count

    def getDevice(self) -> int:
        return self._machine.current

    def setDevice(self, device: int) -> None:
        self._machine.current = device

    def deviceSynchronize(self) -> None:
        self._machine.report()
        self._streams.synchronize_device(self._machine.current)

    def deviceGetAttribute(self, attrib: int, device: int) -> int:
        self._machine.check_device(device)
        known = _attributes(self._machine.spec)
        if attrib not in known:
            # CuPy takes this status to mean that the driver is too old for the attribute.
            raise status_error(INVALID_VALUE, f"device attribute {attrib} is not emulated")
        return known[attrib]

    def getDeviceProperties(self, device: int) -> dict[str, Any]:
        self._machine.check_device(device)
        spec = self._machine.spec
        return {
            "name": f"{spec.name}, emulated".encode(),  # no time is to be taken for a GPU's
            "totalGlobalMem": self._memory.total,
            "major": spec.arch // 10,
            "minor": spec.arch % 10,
            "multiProcessorCount": spec.sm_count,
            "sharedMemPerBlock": kernels.FREE_SHARED,
            "sharedMemPerBlockOptin": spec.shared_per_block,
            "sharedMemPerMultiprocessor": spec.shared_per_sm,
            "l2CacheSize": spec.l2_bytes,
            "warpSize": 32,
            "maxThreadsPerBlock": 1024,
        }

    def deviceCanAccessPeer(self, device: int, peerDevice: int) -> int:
        return 0

    # ---- memory

    def memGetInfo(self) -> tuple[int, int]:
        total = self._memory.total
        return total - self._memory.used(self._machine.current), total

    def malloc(self, size: Size) -> Handle:
        return self._memory.allocate(size, self._machine.current)

    def free(self, ptr: Handle) -> None:
        self._machine.free(ptr)

    def hostAlloc(self, size: Size, flags: Unsigned) -> Handle:
        return self._memory.allocate(size, None)

    def freeHost(self, ptr: Handle) -> None:
        self._machine.free(ptr)

    def pointerGetAttributes(
        self, ptr: Handle
    ) -> Annotated[Any, "struct __pyx_obj_13cupy_backends_4cuda_3api_7runtime_PointerAttributes *"]:
        from cupy_backends.cuda.api import runtime

        found = self._memory.find(ptr)
        if found is None:
            return runtime.PointerAttributes(-2, 0, ptr, _PAGEABLE)
        if found.device is None:
            return runtime.PointerAttributes(self._machine.current, ptr, ptr, _PINNED)
        return runtime.PointerAttributes(found.device, ptr, 0, _DEVICE)

    def pointerGetMemoryType(self, ptr: Handle) -> int:
        return int(self.pointerGetAttributes(ptr).type)

    def memcpy(self, dst: Handle, src: Handle, size: Size, kind: int) -> None:
        self._memory.check_copy(dst, src, size, kind)
        stream = self._machine.put(0, lambda _: self._memory.copy(dst, src, size, kind))
        self._streams.run(stream)

    def memcpyAsync(self, dst: Handle, src: Handle, size: Size, kind: int, stream: Handle) -> None:
        self._memory.check_copy(dst, src, size, kind)
        on = self._machine.put(stream, lambda _: self._memory.copy(dst, src, size, kind))
        pageable = self._memory.is_pageable(dst) or self._memory.is_pageable(src)
        if pageable and on.capture is None:
            self._streams.run(on)

    def memcpyPeer(
        self, dst: Handle, dstDevice: int, src: Handle, srcDevice: int, size: Size
    ) -> None:
        self._check_peers(dst, dstDevice, src, srcDevice, size)
        self.memcpy(dst, src, size, 3)

    def memcpyPeerAsync(
        self, dst: Handle, dstDevice: int, src: Handle, srcDevice: int, size: Size, stream: Handle
    ) -> None:
        self._check_peers(dst, dstDevice, src, srcDevice, size)
        self.memcpyAsync(dst, src, size, 3, stream)

    def _check_peers(self, dst: int, to: int, src: int, source: int, size: int) -> None:
        for pointer, device in ((dst, to), (src, source)):
            found = self._memory.within(pointer, size)
            if found is None or found.device != device:
                raise status_error(INVALID_VALUE, f"{pointer:#x} is not on device {device}")

    def memset(self, ptr: Handle, value: int, size: Size) -> None:
        self.memsetAsync(ptr, value, size, 0)

    def memsetAsync(self, ptr: Handle, value: int, size: Size, stream: Handle) -> None:
        self._memory.within(ptr, size)
        self._machine.put(stream, lambda _: self._memory.fill(ptr, value, size))

    # ---- streams and events

    def streamCreate(self) -> Handle:
        return self._streams.create(self._machine.current)

    def streamCreateWithFlags(self, flags: Unsigned) -> Handle:
        return self._streams.create(self._machine.current, flags)

    def streamCreateWithPriority(self, flags: Unsigned, priority: int) -> Handle:
        return self._streams.create(self._machine.current, flags, priority)

    def _stream(self, handle: int) -> Stream:
        return self._streams.get(handle, self._machine.current)

    def streamGetFlags(self, stream: Handle) -> Unsigned:
        return self._stream(stream).flags

    def streamGetPriority(self, stream: Handle) -> int:
        return self._stream(stream).priority

    def streamDestroy(self, stream: Handle) -> None:
        # Its work is still done; an exception would be lost in a destructor.
        destroyed = self._stream(stream)
        try:
            self._streams.run(destroyed)
        except Exception as failure:
            self._streams.failure = failure
        self._streams.made.pop(stream)

    def streamSynchronize(self, stream: Handle) -> None:
        self._machine.report()
        self._streams.synchronize(self._stream(stream))

    def streamQuery(self, stream: Handle) -> object:
        self._machine.report()
        return self._streams.query(self._stream(stream))

    def streamWaitEvent(self, stream: Handle, event: Handle, flags: Unsigned = 0) -> None:
        self._streams.wait(self._stream(stream), self._streams.events[event])

    def eventCreate(self) -> Handle:
        return self.eventCreateWithFlags(0)

    def eventCreateWithFlags(self, flags: Unsigned) -> Handle:
        return self._streams.events.add(Event(timing=not flags & _DISABLE_TIMING))

    def eventDestroy(self, event: Handle) -> None:
        self._streams.events.pop(event)

    def eventRecord(self, event: Handle, stream: Handle) -> None:
        self._machine.report()
        self._streams.record(self._streams.events[event], self._machine.stream(stream))

    def eventSynchronize(self, event: Handle) -> None:
        self._machine.report()
        self._streams.wait_here(self._streams.events[event])

    def eventQuery(self, event: Handle) -> object:
        self._machine.report()
        return self._streams.query_event(self._streams.events[event])

    def eventElapsedTime(self, start: Handle, end: Handle) -> float:
        times = []
        for event in (self._streams.events[start], self._streams.events[end]):
            if not event.timing or event.point is None:
                raise status_error(INVALID_HANDLE, "the event takes no time, or was not recorded")
            if event.point.time is None:
                raise status_error(NOT_READY, "the event is not reached yet")
            times.append(event.point.time)
        return (times[1] - times[0]) * 1e3

    # ---- graphs

    def streamBeginCapture(self, stream: Handle, mode: int = 2) -> None:
        self._streams.begin_capture(self._stream(stream))

    def streamEndCapture(self, stream: Handle) -> Handle:
        return self._streams.end_capture(self._stream(stream))

    def streamIsCapturing(self, stream: Handle) -> int:
        return int(self._stream(stream).capture is not None)

    def graphInstantiate(self, graph: Handle) -> Handle:
        return self._streams.graphs.add(list(self._streams.graphs[graph]))

    def graphLaunch(self, graphExec: Handle, stream: Handle) -> None:
        for work in self._streams.graphs[graphExec]:
            self._machine.put(stream, work)

    def graphUpload(self, graphExec: Handle, stream: Handle) -> None:
        self._machine.stream(stream)

    def graphDestroy(self, graph: Handle) -> None:
        self._streams.graphs.pop(graph)

    def graphExecDestroy(self, graphExec: Handle) -> None:
        self._streams.graphs.pop(graphExec)


class DriverEntries:
    """``cupy_backends.cuda.api.driver``."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    # A context is a device's primary one, and its handle the device's number and 1.

    def ctxGetCurrent(self) -> Handle:
        return self._machine.current + 1

    def ctxSetCurrent(self, ctx: Handle) -> None:
        self._machine.current = ctx - 1

    def ctxGetDevice(self) -> int:
        return self._machine.current

    def streamGetCtx(self, stream: Handle) -> Handle:
        return self._machine.streams.get(stream, self._machine.current).device + 1

    def moduleLoad(self, filename: str) -> Handle:
        return self.moduleLoadData(pathlib.Path(filename).read_bytes())

    def moduleLoadData(self, image: bytes) -> Handle:
        code = ptx.load(kernels.image_text(image))
        kernels.check_target(code.target, self._machine.spec)
        return self._machine.modules.add(Module(code, self._machine.current))

    def moduleUnload(self, module: Handle) -> None:
        self._machine.modules.pop(module)

    def moduleGetFunction(self, module: Handle, funcname: str) -> Handle:
        loaded = self._machine.modules[module]
        kernel = loaded.code.kernel(funcname)
        return self._machine.functions.add(Function(funcname, kernel, loaded.device))

    def funcSetAttribute(self, func: Handle, attribute: int, value: int) -> None:
        kernels.set_attribute(self._machine.functions[func], attribute, value, self._machine.spec)

    def funcGetAttribute(self, attribute: int, func: Handle) -> int:
        return kernels.attribute_of(self._machine.functions[func], attribute)

    def launchKernel(
        self,
        f: Handle,
        grid_dim_x: Unsigned,
        grid_dim_y: Unsigned,
        grid_dim_z: Unsigned,
        block_dim_x: Unsigned,
        block_dim_y: Unsigned,
        block_dim_z: Unsigned,
        shared_mem_bytes: Unsigned,
        stream: Handle,
        kernel_params: Handle,
        extra: Handle,
    ) -> None:
        machine = self._machine
        function = machine.functions[f]
        if function.device != machine.current:
            raise DriverError(
                f"{function.name} is loaded on device {function.device}, and device "
                f"{machine.current} is current"
            )
        if extra:
            raise DriverError(f"{function.name}: arguments in `extra` are not emulated")
        grid = (grid_dim_x, grid_dim_y, grid_dim_z)
        block = (block_dim_x, block_dim_y, block_dim_z)
        kernels.check_launch(function, grid, block, shared_mem_bytes, machine.spec)
        values = kernels.arguments(function, kernel_params)

        def work(on: Stream) -> None:
            machine.launches.append(
                kernels.run(
                    function,
                    grid_dim_x,
                    block_dim_x,
                    values,
                    shared_mem_bytes,
                    on,
                    machine.memory,
                    machine.seed,
                )
            )

        machine.put(stream, work)


def _attributes(spec: DeviceSpec) -> dict[int, int]:
    """Return what is known of a device, by the numbers of cudaDeviceAttr."""
    return {
        1: 1024,  # threads of a block
        8: kernels.FREE_SHARED,
        10: 32,  # threads of a warp
        16: spec.sm_count,
        38: spec.l2_bytes,
        41: 1,  # one address space
        75: spec.arch // 10,
        76: spec.arch % 10,
        81: spec.shared_per_sm,
        97: spec.shared_per_block,
        115: 0,  # no pools of the driver's own
    }
