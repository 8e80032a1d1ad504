"""Clusters of Dask: the emulator in each worker, and what is left when a worker is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import cusoftmax as cs
from cusoftmax import emulator
from tests.support import DTYPES, bits, dtype_of, logits

da: Any = pytest.importorskip("dask.array", reason="Dask is not installed")
distributed: Any = pytest.importorskip("distributed", reason="distributed is not installed")

cd: Any = pytest.importorskip("cusoftmax.dask")
workers: Any = pytest.importorskip("cusoftmax.dask.workers")

SHAPE = (4, 2 * 1024 + 77)
SECONDS = 300  # longer than a worker takes to start on a busy machine
CONFIG = {
    "distributed.comm.timeouts.connect": SECONDS,
    "distributed.scheduler.allowed-failures": 1,
    "distributed.scheduler.worker-ttl": None,
}


@pytest.fixture(scope="module", params=[1, 2], ids=["one thread", "two threads"])
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Two processes, with one thread or two each, and the emulator in them."""
    import dask

    with (
        dask.config.set(CONFIG),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=request.param, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster, timeout=SECONDS) as client,
    ):
        client.register_plugin(workers.EmulatorPlugin())
        yield client


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
    lazy = da.from_array(x, chunks=chunks), da.from_array(target, chunks=chunks[:1])
    loss, grad = cd.cross_entropy(*lazy, grad=True)
    found = client.gather(client.compute([cd.softmax(lazy[0]), loss, grad]))
    expected = on_one_device("cross_entropy", x, target, reduction="none", grad=True)
    for each, whole in zip(found, [on_one_device("softmax", x), *expected], strict=True):
        assert_same(each, whole)


def test_bfloat16_travels(client: Any) -> None:
    x = logits(SHAPE, "bfloat16")
    assert dtype_of("bfloat16") == x.dtype and "bfloat16" in DTYPES
    found = cd.softmax(da.from_array(x, chunks=(2, 1024))).compute()
    assert_same(found, on_one_device("softmax", x))


def running(client: Any) -> dict[str, int]:
    """Return the processes of workers, by their addresses."""
    found: dict[str, int] = client.run(os.getpid)
    return found


def test_a_killed_worker_is_replaced_and_its_results_are_made_again(client: Any) -> None:
    x = logits(SHAPE, "float32")
    kept = cd.logsumexp(da.from_array(x, chunks=(1, 1024))).persist()
    distributed.wait(kept, timeout=SECONDS)
    before = running(client)
    os.kill(min(before.values()), signal.SIGKILL)
    found = cd.softmax(da.from_array(x, chunks=(1, 1024))).compute()
    assert_same(found, on_one_device("softmax", x))
    assert_same(kept.compute(), on_one_device("logsumexp", x))
    # The worker that the nanny starts again has the plugin.
    client.wait_for_workers(2, timeout=SECONDS)
    assert len(set(running(client).values()) - set(before.values())) == 1
    assert all(client.run(_is_emulated).values())


def _is_emulated() -> bool:
    from cusoftmax.runtime.backend import active

    return bool(active().on_host)


def test_a_block_that_kills_its_workers_is_named(client: Any) -> None:
    def kill(block: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    x = logits(SHAPE, "float32")
    # With a meta, or Dask would call it here to infer one.
    bad = da.from_array(x, chunks=SHAPE).map_blocks(kill, meta=x[:0], name="reading")
    with pytest.raises(distributed.KilledWorker, match="cusoftmax-softmax-reading"):
        cd.softmax(bad).compute()


def test_the_plugin_refuses_what_is_not_known() -> None:
    with pytest.raises(ValueError, match="code is 'nothing'"):
        workers.EmulatorPlugin(code="nothing")


def test_workers_of_one_process_close_in_any_order() -> None:
    first, second = workers.EmulatorPlugin(), workers.EmulatorPlugin()
    first.setup(None)
    second.setup(None)
    first.teardown(None)
    assert _is_emulated()
    second.teardown(None)
    assert not _is_emulated()
