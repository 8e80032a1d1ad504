"""One rule for threads: within `activate()` the whole process runs on the emulator."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cupy
import numpy as np
import pytest

import cusoftmax as cs
from cusoftmax import emulator
from cusoftmax.emulator import _memory
from cusoftmax.runtime import backend

THREADS = 8


@pytest.fixture(autouse=True)
def _all_is_restored() -> Iterator[None]:
    allocator, active = cupy.cuda.get_allocator(), backend.active()
    yield
    assert cupy.cuda.get_allocator() == allocator
    assert backend.active() is active
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(cupy.cuda.get_allocator).result() != _memory.allocate


def softmax_of(seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((3, 50)).astype(np.float32)
    y = emulator.asnumpy(cs.softmax(emulator.asarray(x)))  # with no out: the result is allocated
    np.testing.assert_allclose(y.sum(-1), 1, rtol=1e-6)
    np.testing.assert_array_equal(y.argmax(-1), x.argmax(-1))
    assert cupy.empty(3).shape == (3,)


def test_one_activate_serves_all_threads() -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        pool.submit(int).result()  # a thread that is older than the block
        with emulator.activate(), emulator.trace() as report:
            list(pool.map(softmax_of, range(4 * THREADS)))
    assert report.launches == 4 * THREADS
    assert report.global_bytes_read == 4 * THREADS * 3 * 50 * 4


def test_each_thread_may_activate_its_own() -> None:
    together = threading.Barrier(THREADS)
    archs = ("sm_75", "sm_80", "sm_90", "sm_100")

    def run(seed: int) -> None:
        arch = archs[seed % len(archs)]
        for _ in range(3):
            together.wait()
            with emulator.activate(arch):
                together.wait()
                assert backend.present_device().arch == int(arch.removeprefix("sm_"))
                softmax_of(seed)
                with emulator.activate("sm_120"):
                    assert backend.present_device().arch == 120
                assert backend.present_device().arch == int(arch.removeprefix("sm_"))
                if seed % 2:
                    together.wait()  # half of them end before the others, in no order
            if not seed % 2:
                together.wait()

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(run, range(THREADS)))


def test_the_last_block_to_end_restores_the_allocator() -> None:
    inner_began, outer_ended = threading.Event(), threading.Event()

    def inner() -> None:
        with emulator.activate("sm_75"):
            inner_began.set()
            assert outer_ended.wait(60)
            softmax_of(1)

    with ThreadPoolExecutor(2) as pool:
        with emulator.activate():
            running = pool.submit(inner)
            assert inner_began.wait(60)
            assert backend.present_device().arch == 90
        assert backend.present_device().arch == 75  # the other thread's is still there
        pool.submit(softmax_of, 2).result()
        outer_ended.set()
        running.result()


def test_within_another_allocator() -> None:
    def other(size: int) -> object:
        raise AssertionError(f"{size} bytes were asked of the wrong allocator")

    with cupy.cuda.using_allocator(other), ThreadPoolExecutor(1) as pool:
        with emulator.activate():
            softmax_of(3)
            pool.submit(softmax_of, 4).result()
        assert cupy.cuda.get_allocator() is other


def test_threads_trace_at_once() -> None:
    began, ended = threading.Event(), threading.Event()

    def trace() -> emulator.Report:
        with emulator.trace() as report:
            began.set()
            assert ended.wait(60)
            softmax_of(5)
        return report

    with emulator.activate(), ThreadPoolExecutor(1) as pool:
        with emulator.trace() as first:
            running = pool.submit(trace)
            assert began.wait(60)
        ended.set()
        assert (running.result().launches, first.launches) == (1, 0)
