"""A plugin for Dask's workers: the emulator in each, for clusters without a GPU."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from distributed import WorkerPlugin

from cusoftmax import emulator

__all__ = ["EmulatorPlugin"]


class EmulatorPlugin(WorkerPlugin):  # type: ignore[misc]  # its base is Any where none is installed
    """Runs the kernels of each worker of a cluster on the emulator.

    ``client.register_plugin(EmulatorPlugin())`` activates it in all workers, in those that join or
    are started again later too, for all of their threads, until they close or the plugin is
    unregistered. ``client.run`` of an activation would not do: it ends with the call.

    Parameters
    ----------
    arch : str
        The GPU whose plans to run, such as ``"sm_90"``.
    seed : int
        Draws the order in which threads run and the errors of approximate instructions.
    code : str
        What to run: ``"source"`` or ``"ptx"``, as `cusoftmax.emulator.activate` says.

    Raises
    ------
    ValueError
        If `arch` or `code` is not known.

    Examples
    --------
    >>> from distributed import Client, LocalCluster
    >>> from cusoftmax.dask.workers import EmulatorPlugin
    >>> with LocalCluster(n_workers=2) as cluster, Client(cluster) as client:
    ...     client.register_plugin(EmulatorPlugin())
    ...     y = cusoftmax.dask.softmax(x).compute()
    """

    name = "cusoftmax-emulator"

    def __init__(self, arch: str = "sm_90", seed: int = 0, code: str = "source") -> None:
        emulator.EmulatorBackend(arch, seed, code)  # refuses what is not known before it is sent
        self._arch, self._seed, self._code = arch, seed, code

    async def setup(self, worker: Any) -> None:
        """Activate the emulator in a worker, which answers others in the meantime.

        In a thread of its own, so that workers of one process may close in any order.

        Parameters
        ----------
        worker : distributed.Worker
            The worker.
        """
        self._thread, self._active = ThreadPoolExecutor(1, self.name), ExitStack()
        activation = emulator.activate(self._arch, self._seed, self._code)
        await self._run(self._active.enter_context, activation)

    async def teardown(self, worker: Any) -> None:
        """Leave the emulator.

        Parameters
        ----------
        worker : distributed.Worker
            The worker.
        """
        await self._run(self._active.close)
        self._thread.shutdown()

    async def _run(self, function: Callable[..., Any], *args: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)
