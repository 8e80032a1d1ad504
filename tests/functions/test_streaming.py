"""Arrays of the host in blocks: bits, memory, and what is left of a call that failed."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import pathlib
import re
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.exceptions import AxisError

import cusoftmax as cs
from cusoftmax import streaming
from cusoftmax.runtime import copies
from tests.support import bits, logits

LONG = 40_000  # elements of a row that 100,000 bytes do not hold


def assert_same(found: Any, expected: Any) -> None:
    np.testing.assert_array_equal(bits(found), bits(expected))


@pytest.mark.parametrize("op", ["softmax", "log_softmax", "logsumexp"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_three_buffer_sizes_have_the_same_bits(device: Any, op: str, dtype: str) -> None:
    x = logits((2, LONG), dtype)
    expected = device.asnumpy(getattr(cs, op)(device.asarray(x)))
    for device_bytes in (None, 400_000, 100_000):
        assert_same(getattr(streaming, op)(x, device_bytes=device_bytes), expected)


@pytest.mark.parametrize("device_bytes", [None, 120_000])
def test_losses_and_gradients(device: Any, device_bytes: int | None) -> None:
    x, target = logits((3, LONG), "float32"), np.array([0, LONG - 1, -100])
    expected = cs.cross_entropy(*map(device.asarray, (x, target)), reduction="none", grad=True)
    found = streaming.cross_entropy(x, target, grad=True, device_bytes=device_bytes)
    for each, whole in zip(found, expected, strict=True):
        assert_same(each, device.asnumpy(whole))
    loss = streaming.cross_entropy(x, target, device_bytes=device_bytes)
    assert_same(loss, device.asnumpy(expected[0]))


@pytest.mark.parametrize("kind", ["class", "smooth", "probabilities", "float64"])
@pytest.mark.parametrize("device_bytes", [None, 200_000])  # no row of 12,000 has room
def test_weights_of_classes(device: Any, device_bytes: int | None, kind: str) -> None:
    n = 12_000
    x, target = logits((3, n), "float32"), np.array([0, n - 1, -100])
    if kind == "probabilities":
        target = np.abs(logits(x.shape, "float32", seed=1))
    options = {"label_smoothing": 0.1} if kind == "smooth" else {}
    weight = np.abs(logits((n,), "float64" if kind == "float64" else "float32", seed=2))
    given = [device.asarray(x), device.asarray(target)]
    whole = {"weight": device.asarray(weight), "reduction": "none", "grad": True, **options}
    expected = cs.cross_entropy(*given, **whole)
    found = streaming.cross_entropy(
        x, target, weight=weight, grad=True, device_bytes=device_bytes, **options
    )
    for each, of_one in zip(found, expected, strict=True):
        assert_same(each, device.asnumpy(of_one))
    along_0 = streaming.cross_entropy(
        x.T, target.T, axis=0, weight=weight, device_bytes=device_bytes, **options
    )
    assert_same(along_0, device.asnumpy(expected[0]))


def test_options_are_judged_in_the_arithmetic_of_the_call(device: Any) -> None:
    x = logits((2, 50), "float32")
    wide = np.abs(logits((50,), "float64"))
    target = np.array([1, 2])
    with pytest.raises(ValueError, match="softcap"):
        streaming.cross_entropy(x, target, softcap=1e200)
    found = streaming.cross_entropy(x, target, weight=wide, softcap=1e200)
    given = map(device.asarray, (x, target))
    whole = {"weight": device.asarray(wide), "reduction": "none"}
    assert_same(found, device.asnumpy(cs.cross_entropy(*given, softcap=1e200, **whole)))


@pytest.mark.parametrize("device_bytes", [None, 140_000])
def test_products_with_the_jacobian(device: Any, device_bytes: int | None) -> None:
    y = device.asnumpy(cs.softmax(device.asarray(logits((2, LONG), "float32"))))
    dy = logits((2, LONG), "float32", seed=1)
    expected = device.asnumpy(cs.softmax_vjp(device.asarray(y), device.asarray(dy)))
    assert_same(streaming.softmax_vjp(y, dy, device_bytes=device_bytes), expected)


@pytest.mark.parametrize("op", ["softmax", "log_softmax", "logsumexp", "softmax_vjp"])
@pytest.mark.parametrize("device_bytes", [None, 250_000])
def test_scaled_and_masked_rows(device: Any, op: str, device_bytes: int | None) -> None:
    """Rows along the middle axis, masks and biases that broadcast, one that is all hidden."""
    x, v = logits((2, LONG, 3), "float32"), logits((2, LONG, 3), "float32", seed=1)
    mask = np.random.default_rng(0).random((2, 1, 3)) < 0.7
    masks = (mask, np.random.default_rng(0).random((LONG, 1)) < 0.7)
    assert not mask.all()
    sources = (x, v) if op == "softmax_vjp" else (x,)
    for mask in masks:
        given: dict[str, Any] = {"mask": mask, "scale": -0.3, "bias": v[:1, :, :1]}
        if op == "softmax_vjp":
            del given["bias"]
        found = getattr(streaming, op)(*sources, axis=1, device_bytes=device_bytes, **given)
        rows = [device.asarray(np.moveaxis(a, 1, -1).copy()) for a in sources]
        whole = dict(given)
        for name in given.keys() & {"mask", "bias"}:
            alike = np.broadcast_to(given[name], x.shape)
            whole[name] = device.asarray(np.moveaxis(alike, 1, -1).copy())
        expected = device.asnumpy(getattr(cs, op)(*rows, **whole))
        assert_same(found if op == "logsumexp" else np.moveaxis(found, 1, -1), expected)
    plain = getattr(streaming, op)(*sources, axis=1, scale=1.0, device_bytes=device_bytes)
    assert_same(plain, getattr(streaming, op)(*sources, axis=1))


@pytest.mark.parametrize("k", [1, 40])
@pytest.mark.parametrize("device_bytes", [None, 60_000, 250_000])
def test_selections(device: Any, k: int, device_bytes: int | None) -> None:
    for shape, axis in (((3, LONG), 1), ((50, 5, 7), 0), ((4, 60, 90), 1), ((0, 70), 1)):
        x = np.round(logits(shape, "float32"), 1)  # with ties
        rows = device.asarray(np.moveaxis(x, axis, -1).copy())
        for normalise in ("row", "topk"):
            expected = cs.topk_softmax(rows, k, normalise=normalise, dtype="float64")
            out = tuple(device.asnumpy(each) for each in expected)
            into = tuple(np.empty_like(np.moveaxis(each, -1, axis)) for each in out)
            found = streaming.topk_softmax(
                x, k, into, axis, normalise=normalise, device_bytes=device_bytes
            )
            assert found[0] is into[0] and found[1] is into[1]
            for each, whole in zip(found, out, strict=True):
                assert_same(np.moveaxis(each, axis, -1), whole)
        for seed in (0, 9):
            drawn = streaming.sample(x, None, axis, seed=seed, temperature=2.0,
                                     device_bytes=device_bytes)  # fmt: skip
            whole = device.asnumpy(cs.sample(rows, seed=seed, temperature=2.0))
            assert drawn.dtype == np.int64 and drawn.size == x.size // max(1, shape[axis])
            np.testing.assert_array_equal(drawn, whole)


def test_draws_go_on(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks after `resume` have the noise of their own rows."""
    x = logits((6, 30, 50), "float32")
    expected = device.asnumpy(cs.sample(device.asarray(x), seed=3))
    out = np.full((6, 30), -7)
    streaming.sample(x, out, seed=3, device_bytes=20_000, resume=2)
    assert (out == -7).any() and (out != -7).any()
    np.testing.assert_array_equal(out[out != -7], expected[out != -7])


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_any_axis_has_the_bits_of_contiguous_rows(device: Any, axis: int) -> None:
    x = logits((5, 6, 70), "float32")
    rows = np.ascontiguousarray(np.moveaxis(x, axis, -1))
    expected = device.asnumpy(cs.softmax(device.asarray(rows)))
    for device_bytes in (None, 8_000):
        out = np.empty_like(x)
        assert streaming.softmax(x, out, axis=axis, device_bytes=device_bytes) is out
        assert_same(np.moveaxis(out, axis, -1), expected)
        sums = streaming.logsumexp(x, axis=axis, device_bytes=device_bytes)
        assert_same(sums, device.asnumpy(cs.logsumexp(device.asarray(rows))))


@pytest.mark.parametrize("shape", [(7,), (0, 5), (3, 0), (1, 1)])
def test_small_shapes(device: Any, shape: tuple[int, ...]) -> None:
    x = logits(shape, "float32")
    assert_same(streaming.softmax(x), device.asnumpy(cs.softmax(device.asarray(x))))
    sums = device.asnumpy(cs.logsumexp(device.asarray(x)))
    assert_same(streaming.logsumexp(x), sums)


def test_dtypes_of_results(device: Any) -> None:
    x = logits((4, 50), "float16")
    expected = device.asnumpy(cs.softmax(device.asarray(x), dtype="float32"))
    assert_same(streaming.softmax(x, dtype="float32"), expected)
    out = np.empty((4, 50), np.float32)
    assert_same(streaming.softmax(x, out), expected)
    whole = np.arange(200, dtype=np.int32).reshape(4, 50)
    assert streaming.softmax(whole).dtype == np.float64


@pytest.mark.parametrize("device_bytes", [100_000, 350_000])
def test_no_more_device_memory_than_allowed(
    device: Any, monkeypatch: pytest.MonkeyPatch, device_bytes: int
) -> None:
    taken = []
    regions = copies.regions

    def noted(sizes: list[int]) -> Any:
        taken.append(sum(sizes))
        return regions(sizes)

    monkeypatch.setattr(copies, "regions", noted)
    x = logits((3, LONG), "float32")
    with device.on():
        streaming.softmax(x, device_bytes=device_bytes)
        target, kinds = np.array([0, 1, 2]), np.ones(LONG, np.float16)
        streaming.cross_entropy(x, target, weight=kinds, device_bytes=device_bytes + 2 * LONG)
    assert device_bytes // 2 < taken[0] <= device_bytes
    assert device_bytes // 2 + 2 * LONG < taken[1] <= device_bytes + 2 * LONG


def test_a_block_is_read_while_the_last_one_is_computed(
    device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real = copies.open_device()

    class Noting:
        def __getattr__(self, name: str) -> Any:
            method = getattr(real, name)

            def call(*args: Any) -> Any:
                done.append(name)
                return method(*args)

            return call

    monkeypatch.setattr(copies, "open_device", Noting)
    x = logits((ROWS, 400), "float32")
    streaming.softmax(x, device_bytes=BYTES)
    steps = [name for name in done if name in ("copy_in", "computing", "copy_out", "wait")]
    blocks, each = steps.count("wait"), ["copy_in", "computing", "copy_out"]
    assert blocks > 3
    assert steps == [*each, *each, *["wait", *each] * (blocks - 2), "wait", "wait"]


# ------------------------------------------------------------------------------------------- faults

ROWS, BYTES = 12, 16_384  # of four rows in a block


class Source:
    """An array that fails at a read."""

    def __init__(self, array: np.ndarray, at: int, error: BaseException) -> None:
        self.array, self.at, self.error = array, at, error
        self.shape, self.dtype, self.reads = array.shape, array.dtype, 0

    def __getitem__(self, index: Any) -> np.ndarray:
        self.reads += 1
        if self.reads == self.at:
            raise self.error
        return self.array[index]


class Target:
    """An array that fails at a write, after a part of it."""

    def __init__(self, array: np.ndarray, at: int, error: BaseException) -> None:
        self.array, self.at, self.error = array, at, error
        self.shape, self.dtype, self.writes = array.shape, array.dtype, 0

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.array[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.writes += 1
        if self.writes == self.at:
            self.array[index][..., :3] = value[..., :3]
            raise self.error
        self.array[index] = value


@pytest.fixture
def rows(device: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of six blocks, and their softmax."""
    x = logits((ROWS, 400), "float32")
    return x, device.asnumpy(cs.softmax(device.asarray(x)))


def test_a_source_that_fails_names_the_block(rows: tuple[np.ndarray, np.ndarray]) -> None:
    x, expected = rows
    out = np.full_like(x, -1)
    source = Source(x, 4, OSError(errno.EIO, "bad sector"))
    with pytest.raises(streaming.BlockError, match=r"reading source of block 3 of \d+ ") as caught:
        streaming.softmax(source, out, device_bytes=BYTES)
    assert "bad sector" in str(caught.value) and isinstance(caught.value.__cause__, OSError)
    assert caught.value.resume == 3
    done = 3 * ROWS // blocks_of(source, x)
    assert_same(out[:done], expected[:done])
    assert (out[done:] == -1).all()
    streaming.softmax(x, out, device_bytes=BYTES, resume=caught.value.resume)
    assert_same(out, expected)


def blocks_of(source: Source, x: np.ndarray) -> int:
    """Return how many blocks the rows have, by the reads of a call that does not fail."""
    source.reads, source.at = 0, -1
    streaming.softmax(source, np.empty_like(x), device_bytes=BYTES)
    return source.reads


def test_a_full_disk_names_the_block(rows: tuple[np.ndarray, np.ndarray]) -> None:
    x, expected = rows
    out = np.full_like(x, -1)
    full = Target(out, 3, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(streaming.BlockError, match=r"writing out of block 2 .*No space") as caught:
        streaming.softmax(x, full, device_bytes=BYTES)
    assert caught.value.resume == 2
    streaming.softmax(x, full, device_bytes=BYTES, resume=2)
    assert_same(out, expected)


def test_a_launch_that_fails_names_the_block(
    rows: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, expected = rows
    out, calls, softmax = np.full_like(x, -1), itertools.count(1), cs.softmax

    def failing(*given: Any, **options: Any) -> Any:
        if next(calls) == 4:
            raise RuntimeError("CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES")
        return softmax(*given, **options)

    with monkeypatch.context() as patched:
        patched.setattr(cs, "softmax", failing)
        message = r"softmax: computing block 3 of \d+ \(rows .*RuntimeError: CUDA_ERROR_LAUNCH"
        with pytest.raises(streaming.BlockError, match=message) as caught:
            streaming.softmax(x, out, device_bytes=BYTES)
    assert caught.value.resume == 3  # those before were on the device, and are finished
    done = 3 * ROWS // blocks_of(Source(x, -1, OSError()), x)
    assert_same(out[:done], expected[:done])
    assert (out[done:] == -1).all()
    streaming.softmax(x, out, device_bytes=BYTES, resume=3)
    assert_same(out, expected)


@pytest.mark.parametrize("length", [400, LONG])
def test_a_kernel_that_fails_later_names_the_block(
    emulated: Any, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU says so to who waits for it, and again to whoever asks it for more."""
    x = logits((ROWS if length < LONG else 2, length), "float32")
    out, marks = np.full_like(x, -1), itertools.count(1)

    def mark(_: Any, place: str) -> int:
        return next(marks)

    def wait(_: Any, mark: int) -> None:
        if mark > 11:
            raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")

    with monkeypatch.context() as patched:
        for name, method in (("mark", mark), ("wait", wait), ("close", lambda _: wait(_, 99))):
            patched.setattr(copies._Emulated, name, method)
        with pytest.raises(streaming.BlockError, match=r"computing block .*ILLEGAL") as caught:
            streaming.softmax(x, out, device_bytes=BYTES if length < LONG else 100_000)
    resume = caught.value.resume
    assert f"computing block {resume} of" in str(caught.value)
    streaming.softmax(x, out, device_bytes=BYTES if length < LONG else 100_000, resume=resume)
    assert_same(out, emulated.asnumpy(cs.softmax(emulated.asarray(x))))


def test_interrupted_where_it_reads(rows: tuple[np.ndarray, np.ndarray]) -> None:
    x, expected = rows
    out = np.full_like(x, -1)
    source = Source(x, 4, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt, match="interrupted after 3 of") as caught:
        streaming.softmax(source, out, device_bytes=BYTES)
    assert isinstance(caught.value, streaming.Interrupted)
    done = 3 * ROWS // blocks_of(source, x)
    assert_same(out[:done], expected[:done])  # those on the device, too
    streaming.softmax(x, out, device_bytes=BYTES, resume=caught.value.resume)
    assert_same(out, expected)


def test_interrupted_where_it_writes(rows: tuple[np.ndarray, np.ndarray]) -> None:
    x, expected = rows
    out = np.full_like(x, -1)
    with pytest.raises(streaming.Interrupted) as caught:
        streaming.softmax(x, Target(out, 2, KeyboardInterrupt()), device_bytes=BYTES)
    done = caught.value.resume * ROWS // blocks_of(Source(x, -1, OSError()), x)
    assert done > 0
    assert_same(out[:done], expected[:done])  # the one that was half written, too
    assert (out[done:] == -1).all()


@pytest.mark.parametrize("at", range(1, 11))
def test_interrupted_within_a_long_row(device: Any, at: int) -> None:
    x = logits((2, LONG), "float32")
    expected = device.asnumpy(cs.softmax(device.asarray(x)))
    out = np.empty_like(x)
    with pytest.raises(streaming.Interrupted) as caught:
        streaming.softmax(Source(x, at, KeyboardInterrupt()), out, device_bytes=100_000)
    streaming.softmax(x, out, device_bytes=100_000, resume=caught.value.resume)
    assert_same(out, expected)


def test_memmaps(device: Any, tmp_path: pathlib.Path) -> None:
    x = logits((ROWS, 400), "float32")
    x.tofile(tmp_path / "x")
    source = np.memmap(tmp_path / "x", np.float32, "r", shape=x.shape)
    out = np.memmap(tmp_path / "y", np.float32, "w+", shape=x.shape)
    streaming.softmax(source, out, device_bytes=BYTES)
    out.flush()
    expected = device.asnumpy(cs.softmax(device.asarray(x)))
    assert_same(np.fromfile(tmp_path / "y", np.float32).reshape(x.shape), expected)


@pytest.mark.parametrize("view", [False, True])
def test_a_truncated_memmap(device: Any, tmp_path: pathlib.Path, view: bool) -> None:
    x = logits((ROWS, 4096), "float32")
    x.tofile(tmp_path / "x")
    whole = np.memmap(tmp_path / "x", np.float32, "r", shape=x.shape)
    source = whole[2:] if view else whole
    os.truncate(tmp_path / "x", 8 * 4096 * 4)
    out = np.full(source.shape, -1, np.float32)
    with pytest.raises(streaming.BlockError, match=r"131072 bytes, and \d+ are needed") as caught:
        streaming.softmax(source, out, device_bytes=140_000)
    done = int((out[:, 0] != -1).sum())
    assert 0 < done <= 8
    assert caught.value.resume > 0
    expected = device.asnumpy(cs.softmax(device.asarray(x[2:] if view else x)))
    assert_same(out[:done], expected[:done])


def test_a_truncated_memmap_for_results(device: Any, tmp_path: pathlib.Path) -> None:
    x = logits((ROWS, 4096), "float32")
    out = np.memmap(tmp_path / "y", np.float32, "w+", shape=x.shape)
    os.truncate(tmp_path / "y", 8 * 4096 * 4)
    with pytest.raises(
        streaming.BlockError, match=r"writing out .* has 131072 bytes, and"
    ) as caught:
        streaming.softmax(x, out, device_bytes=140_000)
    assert caught.value.resume == 4
    os.truncate(tmp_path / "y", x.nbytes)
    streaming.softmax(x, out, device_bytes=140_000, resume=4)
    assert_same(out, device.asnumpy(cs.softmax(device.asarray(x))))


def test_memmaps_whose_files_have_no_names_any_more(device: Any, tmp_path: pathlib.Path) -> None:
    x = logits((ROWS, 400), "float32")
    x.tofile(tmp_path / "x")
    source = np.memmap(tmp_path / "x", np.float32, "r", shape=x.shape)
    out = np.memmap(tmp_path / "y", np.float32, "w+", shape=x.shape)
    os.unlink(tmp_path / "x")
    os.rename(tmp_path / "y", tmp_path / "z")
    (tmp_path / "y").write_bytes(b"another file")
    streaming.softmax(source, out, device_bytes=BYTES)
    assert_same(out, device.asnumpy(cs.softmax(device.asarray(x))))
    assert (tmp_path / "y").read_bytes() == b"another file"


ON_A_FULL_DISK = """
import os, sys
import numpy as np
import cusoftmax as cs
from cusoftmax import streaming
from cusoftmax.machine import machine
x = np.random.default_rng(0).standard_normal((64, 4096), np.float32)
with machine("emulator") as on:
    expected = on.asnumpy(cs.softmax(on.asarray(x)))
    open("filler", "wb").write(bytes(600_000))
    out = np.memmap("y", np.float32, "w+", shape=x.shape)  # of 1 MiB, which the disk has not
    try:
        streaming.softmax(x, out, device_bytes=300_000)
    except streaming.BlockError as error:
        print(error)
        os.unlink("filler")
        streaming.softmax(x, out, device_bytes=300_000, resume=error.resume)
        assert out.tobytes() == expected.tobytes()
        print("the rest is written")
"""


def test_a_disk_that_is_full(tmp_path: pathlib.Path) -> None:
    """Of real memory: to write where a file has none would end the process."""
    alone = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=1200k none '{tmp_path}' && cd '{tmp_path}'"
    if subprocess.run([*alone, mount], capture_output=True).returncode:
        pytest.skip("this user may not mount a small disk")
    done = subprocess.run(
        [*alone, f'{mount} && "$0" -c "$1"', sys.executable, ON_A_FULL_DISK],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    error, last = done.stdout.splitlines()
    assert re.search(
        r"writing out of block \d+ of 16 .*: \[Errno 28\] No space left on device", error
    )
    assert last == "the rest is written"


WITH_CTRL_C = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # which background jobs of a shell ignore
import numpy as np
import cusoftmax as cs
from cusoftmax import streaming
from cusoftmax.machine import machine
x = np.random.default_rng(0).standard_normal((64, 4096), np.float32)
class Slow:
    shape, dtype, read = x.shape, x.dtype, 0
    def __getitem__(self, index):
        self.read += 1
        if self.read > 3:
            print("reading", flush=True)
            time.sleep(0.2)
        return x[index]
out = np.full_like(x, -1)
with machine("emulator") as on:
    expected = on.asnumpy(cs.softmax(on.asarray(x)))
    try:
        streaming.softmax(Slow(), out, device_bytes=300_000)
    except KeyboardInterrupt as error:
        print(error)
        done = 4 * error.resume  # of four rows in a block
        assert out[:done].tobytes() == expected[:done].tobytes() and (out[done:] == -1).all()
        streaming.softmax(x, out, device_bytes=300_000, resume=error.resume)
        assert out.tobytes() == expected.tobytes()
        print("the rest is written")
"""


def test_ctrl_c() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WITH_CTRL_C],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n"
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=600)
    lines = [line for line in said.splitlines() if line != "reading"]
    assert len(lines) == 2, said + errors
    message, last = lines
    assert re.fullmatch(
        r"softmax: interrupted after (\d+) of 16 blocks, which are finished, and resume=\1 goes on",
        message,
    )
    assert last == "the rest is written", errors


# ------------------------------------------------------------------------------ progress and errors


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_on_a_terminal_alone(
    device: Any, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    said = io.StringIO()
    monkeypatch.setattr(said, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", said)
    streaming.softmax(logits((4, 50), "float32"))
    assert ("softmax, blocks" in said.getvalue()) == terminal
    said.truncate(0)
    streaming.softmax(logits((4, 50), "float32"), progress=False)
    assert not said.getvalue().strip("\0")


def test_wrong_arguments(device: Any) -> None:
    x, y = np.zeros((2, 50), np.float32), np.ones((2, 50), np.float32)
    on_device: Any = device.asarray(x)
    for call, kind, message in (
        (lambda: streaming.softmax(on_device), TypeError, "is on the device"),
        (lambda: streaming.softmax([1.0]), TypeError, "source is a list"),
        (lambda: streaming.softmax(x.astype(complex)), TypeError, "source has dtype complex128"),
        (lambda: streaming.softmax(np.ma.masked_array(x, x == 0)), TypeError, "source is a masked"),
        (lambda: streaming.softmax(x, np.broadcast_to(y, y.shape)), TypeError, "cannot be written"),
        (lambda: streaming.softmax(x, axis=2), AxisError, "axis 2"),
        (lambda: streaming.softmax(x, np.empty((2, 5))), ValueError, r"out has shape \(2, 5\)"),
        (lambda: streaming.softmax(x, np.empty((2, 50), int)), TypeError, "out has dtype int64"),
        (lambda: streaming.softmax(x, x.copy(), dtype="float64"), TypeError, "out has dtype"),
        (lambda: streaming.softmax(x, device_bytes=100), ValueError, "device_bytes=100 is too few"),
        (lambda: streaming.softmax(x, device_bytes="1"), TypeError, "device_bytes='1'"),
        (lambda: streaming.softmax(x, resume=9), ValueError, "resume=9, but there are 1 blocks"),
        (
            lambda: streaming.softmax(x, resume=1),
            ValueError,
            "resume=1 goes on .* out is not given",
        ),
        (lambda: streaming.softmax(x, x), ValueError, "out shares memory with source; give"),
        (lambda: streaming.softmax(x[:1], x[1:].copy()[::-1]), None, ""),
        (lambda: streaming.softmax(x[:, :40], x[:, 5:45]), ValueError, "out shares memory"),
        (lambda: streaming.softmax(x[:, :20], x[:, 20:40]), None, ""),
        (lambda: streaming.softmax_vjp(y, x, x), ValueError, "out shares memory with dy"),
        (
            lambda: streaming.cross_entropy(y, np.zeros(2, int), (x[:, 0], x), grad=True),
            ValueError,
            r"out\[1\] shares memory with out\[0\]",
        ),
        (lambda: streaming.softmax(x, progress=1), TypeError, "progress=1"),
        (lambda: streaming.softmax(np.float32(1)), ValueError, "has no dimensions"),
        (lambda: streaming.softmax_vjp(x, x[:1]), ValueError, "dy has shape"),
        (lambda: streaming.cross_entropy(x, np.zeros(3, int)), ValueError, "target has shape"),
        (
            lambda: streaming.cross_entropy(x, np.zeros(2, int), weight=x[0, :9]),
            ValueError,
            r"weight has shape \(9,\)",
        ),
        (
            lambda: streaming.cross_entropy(x, np.zeros(2, int), weight=np.zeros(50, int)),
            TypeError,
            "weight has dtype int64",
        ),
        (
            lambda: streaming.cross_entropy(x, np.zeros(2, int), label_smoothing=2),
            ValueError,
            "label_smoothing",
        ),
        (
            lambda: streaming.cross_entropy(x, np.zeros(2, int), x, grad=True),
            TypeError,
            "give two",
        ),
        (lambda: streaming.softmax(x, mask=x), TypeError, "softmax: mask has dtype float32"),
        (lambda: streaming.softmax(x, bias=x[:, :9]), ValueError, r"bias has shape \(2, 9\)"),
        (lambda: streaming.softmax(x, bias=x[None]), ValueError, r"bias has shape \(1, 2, 50\)"),
        (lambda: streaming.softmax(x, bias=on_device), TypeError, "bias is on the device"),
        (lambda: streaming.softmax(x, bias=np.array(0.5)), None, ""),
        (lambda: streaming.softmax(x, scale=1e30), ValueError, "scale=1e"),
        (lambda: streaming.softmax(y, x, bias=x[:1]), ValueError, "out shares memory with bias"),
        (lambda: streaming.topk_softmax(x, 51), ValueError, "topk_softmax: k=51"),
        (lambda: streaming.topk_softmax(x, "1"), TypeError, "topk_softmax: k='1'"),
        (lambda: streaming.topk_softmax(x, 1, x), TypeError, "give two: values, indices"),
        (
            lambda: streaming.topk_softmax(x, 1, (np.zeros((2, 1)), np.zeros((2, 1), np.int32))),
            TypeError,
            r"out\[1\] has dtype int32",
        ),
        (lambda: streaming.topk_softmax(x, 1, dtype=int), TypeError, "topk_softmax: dtype=int64"),
        (lambda: streaming.sample(x, seed=-1), ValueError, "sample: seed=-1"),
        (lambda: streaming.sample(x[:, :0], seed=1), ValueError, "sample: "),
        (lambda: streaming.sample(x, np.zeros(2), seed=1), TypeError, "out has dtype float64"),
    ):
        with pytest.raises(kind, match=message) if kind else contextlib.nullcontext():
            call()


def test_a_file_that_is_source_and_target(device: Any, tmp_path: pathlib.Path) -> None:
    x, path = logits((ROWS, 400), "float32"), tmp_path / "x.bin"
    x.tofile(path)
    source = np.memmap(path, np.float32, "r", shape=x.shape)
    with pytest.raises(ValueError, match="softmax: out shares memory with source"):
        streaming.softmax(source[1:], np.memmap(path, np.float32, "r+", shape=(ROWS - 1, 400)))
    half = np.memmap(path, np.float32, "r+", x.nbytes // 2, shape=(ROWS // 2, 400))
    streaming.softmax(source[: ROWS // 2], half)  # the parts that are used are apart
    assert_same(half, device.asnumpy(cs.softmax(device.asarray(x[: ROWS // 2]))))
    whole = np.memmap(tmp_path / "both.bin", np.float32, "w+", shape=(ROWS, 800))
    whole[:, ::2] = x  # and so are these, though they lie between each other
    streaming.softmax(whole[:, ::2], whole[:, 1::2])
    assert_same(whole[:, 1::2], device.asnumpy(cs.softmax(device.asarray(x))))


def test_results_that_are_lost(rows: tuple[np.ndarray, np.ndarray]) -> None:
    for error in (OSError("bad"), KeyboardInterrupt()):
        with pytest.raises((streaming.BlockError, streaming.Interrupted)) as caught:
            streaming.softmax(Source(rows[0], 4, error), device_bytes=BYTES)
        assert "lost, as no out was given" in str(caught.value)
        assert caught.value.resume == 0


def test_the_least_bytes_that_are_named_are_enough(device: Any) -> None:
    x = logits((2, LONG), "float32")
    with pytest.raises(ValueError, match="give ") as caught:
        streaming.softmax(x, device_bytes=1)
    least = int(str(caught.value).split("give ")[1].split()[0])
    expected = device.asnumpy(cs.softmax(device.asarray(x)))
    assert_same(streaming.softmax(x, device_bytes=least), expected)
    with pytest.raises(ValueError, match="too few"):
        streaming.softmax(x, device_bytes=least - 1)


ON_THE_DRIVER = """
from cusoftmax.emulator import cuda_driver
machine = cuda_driver.install(arch="sm_90")
import cupy, numpy as np, cusoftmax as cs
from cusoftmax import streaming
x = np.random.default_rng(0).normal(size=(6, 3000)).astype("float32")
expected = cupy.asnumpy(cs.softmax(cupy.asarray(x)))
for device_bytes in (110_000, 70_000, 60_000):
    found = streaming.softmax(x, device_bytes=device_bytes)
    assert found.tobytes() == expected.tobytes(), device_bytes
print("same")
"""


def test_copies_on_three_streams() -> None:
    """On the emulated driver nothing happens before it is waited for, so order is all by events."""
    said = subprocess.run(
        [sys.executable, "-c", ON_THE_DRIVER], capture_output=True, text=True, timeout=600
    )
    assert said.stdout == "same\n", said.stderr
