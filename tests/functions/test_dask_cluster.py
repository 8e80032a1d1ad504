"""Clusters of Dask: the emulator in each worker, and what is left when a worker is killed."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import cusoftmax as cs
from cusoftmax import emulator
from tests.support import bits, dtype_of, logits

dask: Any = pytest.importorskip("dask", reason="Dask is not installed")
da: Any = pytest.importorskip("dask.array", reason="dask.array is not installed")
distributed: Any = pytest.importorskip("distributed", reason="distributed is not installed")

cd: Any = pytest.importorskip("cusoftmax.dask")
workers: Any = pytest.importorskip("cusoftmax.dask.workers")

SHAPE = (4, 2 * 1024 + 77)
SECONDS = 120  # of a test, or of a cluster's start or end: far more than it takes


@contextmanager
def limited() -> Iterator[None]:
    """Let what hangs fail."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"not done after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    with limited():
        yield


@pytest.fixture(scope="module", params=[1, 2], ids=["one thread", "two threads"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A client of two processes, with one thread or two each, and the emulator in them."""
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        with limited():
            cluster = distributed.LocalCluster(
                n_workers=2, threads_per_worker=request.param, dashboard_address=":0"
            )
            client = distributed.Client(cluster)
            client.register_plugin(workers.EmulatorPlugin())
        yield client
        with limited():
            client.close()
            cluster.close()


@pytest.fixture
def client(cluster: Any) -> Any:
    """The client, when both workers are there, also after a test that killed some."""
    cluster.wait_for_workers(2, timeout=SECONDS)
    return cluster


two_threads = pytest.mark.parametrize("cluster", [2], indirect=True, ids=["two threads"])


def on_one_device(op: str, *arrays: np.ndarray, **options: Any) -> Any:
    with emulator.activate():
        made = getattr(cs, op)(*map(emulator.asarray, arrays), **options)
        if isinstance(made, tuple):
            return [emulator.asnumpy(each) for each in made]
        return emulator.asnumpy(made)


def assert_same(found: Any, expected: Any) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(bits(found), bits(expected))


@pytest.mark.parametrize("chunks", [(4, 1024), (1, SHAPE[1]), (2, 1500)])
def test_bits_of_one_device(client: Any, chunks: tuple[int, int]) -> None:
    x, target = logits(SHAPE, "float32"), np.array([0, 2000, 5, -100])
    lx, lt = da.from_array(x, chunks=chunks), da.from_array(target, chunks=chunks[:1])
    lazy = [cd.softmax(lx), *cd.cross_entropy(lx, lt, grad=True)]
    lazy += [*cd.topk_softmax(lx, 3), cd.sample(lx, seed=1)]
    found = client.gather(client.compute(lazy))
    expected = [on_one_device("softmax", x)]
    expected += on_one_device("cross_entropy", x, target, reduction="none", grad=True)
    expected += [*on_one_device("topk_softmax", x, k=3), on_one_device("sample", x, seed=1)]
    for each, whole in zip(found, expected, strict=True):
        assert_same(each, whole)


def test_all_threads_of_a_worker_have_the_emulator(client: Any) -> None:
    """Tasks that wait for one another, so that each thread has one."""
    (address, threads), *_ = client.nthreads().items()

    def met(count: int, _: int) -> bool:
        worker = distributed.get_worker()
        barrier = worker.__dict__.setdefault("met", threading.Barrier(count))
        barrier.wait(SECONDS)
        return _is_emulated()

    made = client.map(met, [threads] * threads, range(threads), workers=address, pure=False)
    assert client.gather(made) == [True] * threads


def test_bfloat16_travels(client: Any) -> None:
    x = logits(SHAPE, "bfloat16")
    assert x.dtype == dtype_of("bfloat16")
    found = client.compute(cd.softmax(da.from_array(x, chunks=(2, 1024)))).result()
    assert_same(found, on_one_device("softmax", x))


@two_threads
def test_a_plugin_that_is_taken_back(client: Any) -> None:
    client.unregister_worker_plugin(workers.EmulatorPlugin.name)
    assert not any(client.run(_is_emulated).values())
    client.register_plugin(workers.EmulatorPlugin())
    assert all(client.run(_is_emulated).values())


# ----------------------------------------------------------------------------------- killed workers


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)


@two_threads
def test_results_of_a_killed_worker_are_made_again(client: Any) -> None:
    """Where other workers need them, too."""
    x = logits(SHAPE, "float32")
    kept = cd.log_softmax(da.from_array(x, chunks=(1, 1024))).persist()
    distributed.wait(kept)
    before = client.run(os.getpid)
    assert all(client.has_what().values())
    kill(min(before.values()))
    whole = on_one_device("log_softmax", x)
    assert_same((kept + 1).compute(), whole + 1)
    assert_same(kept.compute(), whole)
    # The nanny starts a worker in its place, with the plugin.
    client.wait_for_workers(2, timeout=SECONDS)
    assert len(set(client.run(os.getpid).values()) - set(before.values())) == 1
    assert all(client.run(_is_emulated).values())


@two_threads
def test_what_is_finished_elsewhere_is_not_made_again(client: Any, tmp_path: pathlib.Path) -> None:
    x, gate = logits(SHAPE, "float32"), tmp_path / "open"
    last = len(x) - 1

    def read(block: Any, block_info: Any) -> Any:
        row, _ = block_info[0]["chunk-location"]
        with (tmp_path / "rows").open("a") as file:
            file.write(f"{row}\n")
        while row == last and not gate.exists():
            time.sleep(0.01)
        return block

    lazy = da.from_array(x, chunks=(1, SHAPE[1])).map_blocks(read, meta=x[:0])
    kept = cd.softmax(lazy).persist()
    futures = {future.key[1]: future for future in distributed.futures_of(kept)}
    distributed.wait([futures[row] for row in range(last)])
    holders = client.who_has(list(futures.values()))
    (busy,) = (address for address, keys in client.processing().items() if keys)
    finished = [row for row in range(last) if busy not in holders[futures[row].key]]
    kill(client.run(os.getpid, workers=[busy])[busy])
    gate.touch()
    assert_same(kept.compute(), on_one_device("softmax", x))
    times = Counter(map(int, (tmp_path / "rows").read_text().split()))
    assert times == {row: 1 if row in finished else 2 for row in range(len(x))}


@two_threads
def test_a_block_that_kills_its_workers_is_named(client: Any, tmp_path: pathlib.Path) -> None:
    """And what was written before is there."""
    x = logits(SHAPE, "float32")
    target = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", x.dtype, x.shape)

    def read(block: Any, block_info: Any) -> Any:
        if block_info[0]["chunk-location"] == (3, 0):
            while not np.load(tmp_path / "y.npy", mmap_mode="r")[:3].all():
                time.sleep(0.01)
            kill(os.getpid())
        return block

    # With a meta, or Dask would call it here to infer one.
    lazy = da.from_array(x, chunks=(1, SHAPE[1])).map_blocks(read, meta=x[:0], name="reading")
    with pytest.raises(distributed.KilledWorker, match="cusoftmax-softmax-reading"):
        da.store(cd.softmax(lazy), _Rows(tmp_path / "y.npy"), lock=False)
    assert_same(target[:3], on_one_device("softmax", x)[:3])


class _Rows:
    """A file that several processes write rows of."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def __setitem__(self, where: Any, rows: Any) -> None:
        np.load(self._path, mmap_mode="r+")[where] = rows


# -------------------------------------------------------------------------------------- the plugin


def _is_emulated() -> bool:
    from cusoftmax.runtime.backend import active

    return bool(active().on_host)


def test_the_plugin_refuses_what_is_not_known() -> None:
    with pytest.raises(ValueError, match="code is 'nothing'"):
        workers.EmulatorPlugin(code="nothing")


def test_workers_of_one_process_close_in_any_order() -> None:
    first, second = workers.EmulatorPlugin(), workers.EmulatorPlugin()

    async def tried() -> None:
        await first.setup(None)
        await second.setup(None)
        await first.teardown(None)
        assert _is_emulated()
        await second.teardown(None)
        assert not _is_emulated()

    asyncio.run(tried())


def test_a_worker_answers_while_the_emulator_is_activated(monkeypatch: pytest.MonkeyPatch) -> None:
    """To import CuPy takes seconds."""
    answered = threading.Event()

    @contextmanager
    def activate(*_: Any) -> Iterator[None]:
        assert answered.wait(5)
        yield

    monkeypatch.setattr(emulator, "activate", activate)
    plugin = workers.EmulatorPlugin()

    async def tried() -> None:
        setup = asyncio.ensure_future(plugin.setup(None))
        await asyncio.sleep(0)
        answered.set()
        await setup
        await plugin.teardown(None)

    asyncio.run(tried())


def test_a_plugin_that_could_not_be_set_up_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def activate(*_: Any) -> Iterator[None]:
        raise ImportError("no CuPy")
        yield

    monkeypatch.setattr(emulator, "activate", activate)
    plugin = workers.EmulatorPlugin()

    async def tried() -> None:
        with pytest.raises(ImportError, match="no CuPy"):
            await plugin.setup(None)
        await plugin.teardown(None)

    asyncio.run(tried())
