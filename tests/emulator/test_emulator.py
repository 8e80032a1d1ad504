"""The emulator itself: small wrong kernels are reported, small right ones are not."""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from cusoftmax import emulator
from cusoftmax.emulator import _build, _run
from cusoftmax.runtime.source import kernel_root

KERNELS = pathlib.Path(__file__).resolve().parent


def prepare(file: str, body: str, ctype: str = "float", cluster: int = 1) -> _run.HostKernel:
    macros = [("CSM_BODY", body), ("CSM_TYPE", ctype), ("CSM_ACC", ctype)]
    return _run.HostKernel(
        KERNELS / file, f"csm_test_{body}", macros, [kernel_root()], cluster=cluster
    )


def right(body: str, ctype: str = "float", cluster: int = 1) -> _run.HostKernel:
    return prepare("right.cu", body, ctype, cluster)


def like(array: Any, fill: float = 0) -> Any:
    return emulator.asarray(np.full(array.shape, fill, array.dtype))


# ---- wrong kernels ----

GRID, BLOCK = 2, 64
# Blocks of the cluster, and what the message has to say besides kernel, block and thread.
WRONG = {
    "read_past_end": (1, r"1, thread 63: read of 4 bytes out of bounds, at byte 512 of argument 0"),
    "read_before_start": (1, r"0, thread 0: read of 4 bytes .*, at byte -4 of argument 0"),
    "write_past_end": (1, r"1, thread 63: write of 4 bytes .*, at byte 512 of argument 2"),
    "write_input": (1, r"write of 4 .* argument 0, which is for reading only"),
    "read_output": (1, r"read of 4 .* argument 2, which is for writing only"),
    "leave_one_out": (1, r"element 37 of argument 2 was never written, of 128"),
    "write_one_twice": (1, r"0, thread 37: element 37 of argument 2 is written"),
    "write_part": (1, r"write of 2 bytes out of bounds: not whole elements"),
    "misaligned": (1, r"0, thread \d*[13579]: misaligned read of 8 bytes"),
    "shared_unwritten": (1, r"0, thread 5: read of shared memory that nobody wrote, at byte 20"),
    "shared_past_end": (1, r"0, thread 63: shared write of 4 bytes .*, at byte 256 of 256"),
    "shared_misaligned": (1, r"misaligned shared write of 8 bytes at byte 4"),
    "race_write_write": (1, r"race at byte 0 of shared memory: write .* thread \d+ wrote"),
    "race_write_read": (1, r"race at byte 0 of shared memory"),
    "race_write_add": (1, r"race at byte 0 of shared memory: addition .* thread \d+ wrote"),
    "race_add_read": (1, r"race at byte 0 of shared memory: (read|addition) "),
    "race_over_shuffle": (1, r"race at byte \d+ of shared memory|nobody wrote"),
    "race_missing_barrier": (1, r"(race at byte \d+|read of shared memory that nobody wrote)"),
    "add_to_unwritten": (1, r"addition of shared memory that nobody wrote, at byte 8"),
    "race_add_write": (1, r"race at byte 0 of shared memory: (write|addition)"),
    "copy_not_finished": (1, r"read of shared memory that nobody wrote"),
    "copy_race": (1, r"(race at byte \d+|read of shared memory that nobody wrote)"),
    "copy_misaligned": (1, r"misaligned read of 16 bytes"),
    "copy_past_end": (1, r"shared write of 16 bytes out of bounds, at byte 256 of 256"),
    "bulk_read_not_finished": (1, r"thread 0: the thread returns before its bulk copies"),
    "bulk_read_of_other_size": (1, r"thread 0: a wait for 48 bytes of bulk copies that have 64"),
    "bulk_read_without_barrier": (1, r"thread 0: a bulk copy with a barrier that this thread has"),
    "bulk_read_race": (1, r"(race at byte \d+|read of shared memory that nobody wrote)"),
    "bulk_read_past_end": (1, r"read of \d+ bytes out of bounds, at byte (496|512) of argument 0"),
    "bulk_misaligned": (1, r"misaligned bulk copy of 64 bytes"),
    "bulk_write_not_finished": (1, r"thread 0: the thread returns before its bulk copies"),
    "bulk_write_twice": (1, r"element \d+ of argument 2 is written a second time"),
    "bulk_write_not_published": (1, r"byte \d+ of shared memory, which .* has not published"),
    "barrier_in_branch": (1, r"divergent block_barrier.* returned"),
    "barrier_for_one_warp": (1, r"0, thread 0: divergent .*thread 32, which has returned"),
    "barrier_in_two_places": (1, r"divergent block_barrier .* of the same block is"),
    "shuffle_in_branch": (1, r"divergent shuffle_xor.* returned"),
    "shuffle_masks_differ": (1, r"divergent shuffle_xor .*lane mask [12]"),
    "shuffle_widths_differ": (1, r"divergent shuffle .*width (16|32)"),
    "shuffle_leaves_group": (1, r"shuffle_xor .*lane mask 16 leaves the group of 16"),
    "shuffle_against_barrier": (1, r"divergent (block_barrier|shuffle_xor)"),
    "early_return": (1, r"divergent block_barrier.* returned"),
    "remote_without_barrier": (2, r"remote store .* before the cluster's first"),
    "remote_to_nobody": (2, r"remote store to rank 2 of a cluster of 2"),
    "remote_after_return": (2, r"remote store.* returned"),
    "remote_race": (2, r"race at byte \d+ of shared memory"),
    "read_before_wait": (2, r"(race at|read of shared memory that nobody)"),
    "wait_alone": (2, r"0, thread 0: divergent cluster_wait .*block 1.* has returned"),
    "arrive_twice": (2, r"cluster_arrive .*twice without cluster_wait"),
}  # fmt: skip


@pytest.mark.parametrize("body", WRONG)
def test_wrong_kernel_is_reported(body: str) -> None:
    cluster, message = WRONG[body]
    kernel = prepare("wrong.cu", body, cluster=cluster)
    for seed in range(10):
        x = emulator.asarray(np.ones(GRID * BLOCK, np.float32))
        with pytest.raises(emulator.KernelError, match=message) as raised:
            kernel.launch(GRID, BLOCK, (x, 0, like(x), 0, np.int64(0)), 4 * BLOCK, seed=seed)
        assert str(raised.value).startswith(f"kernel csm_test_{body}")
        if body != "leave_one_out":
            assert re.search(r", block \d, thread \d+: ", str(raised.value))
            assert "wrong.cu:" in str(raised.value) or "returned" in str(raised.value)


def test_write_between_elements_is_reported() -> None:
    kernel = right("copy_apart")
    store = emulator.asarray(np.zeros((64, 3), np.float32))
    x = emulator.asarray(np.ones((64, 3), np.float32))
    column = store[:, 1]
    args = (x, 0, column, 0)
    kernel.launch(1, 64, (*args, np.int64(3)))
    assert emulator.asnumpy(store).sum(axis=0).tolist() == [0, 64, 0]
    with pytest.raises(emulator.KernelError, match="between the elements of a strided array"):
        kernel.launch(1, 64, (*args, np.int64(2)))


def test_too_many_threads_for_launch_bounds() -> None:
    kernel = _run.HostKernel(
        KERNELS / "right.cu",
        "csm_test_nothing",
        [("CSM_BODY", "nothing"), ("CSM_TYPE", "float")],
        [kernel_root()],
        max_threads=64,
    )
    with pytest.raises(emulator.KernelError, match="launch bounds say 64"):
        kernel.launch(1, 128, (0, 0, 0, 0, np.int64(0)))


# ---- right kernels ----


@pytest.mark.parametrize("seed", range(10))
def test_softmax_and_cluster_exchange(seed: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 1000)).astype(np.float32)
    device_x = emulator.asarray(x)
    out = like(device_x, np.nan)
    right("softmax").launch(3, 96, (device_x, 0, out, 0, np.int64(1000)), 12, seed=seed)
    exact = np.exp(x.astype(np.float64))
    exact /= exact.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(emulator.asnumpy(out), exact, rtol=3e-6)

    given = emulator.asarray(np.arange(8, dtype=np.float32))
    sums = like(given)
    kernel = right("cluster_sum", cluster=4)
    kernel.launch(8, 64, (given, 0, sums, 0, np.int64(4)), 16, seed=seed)
    assert emulator.asnumpy(sums).tolist() == [6] * 4 + [22] * 4


def test_same_seed_same_bits_and_other_seed_other_bits() -> None:
    x = emulator.asarray(np.linspace(-5, 5, 1024, dtype=np.float32))
    results = []
    for seed in (1, 1, 2):
        out = like(x)
        right("softmax").launch(1, 128, (x, 0, out, 0, np.int64(1024)), 16, seed=seed)
        results.append(emulator.asnumpy(out).tobytes())
    assert results[0] == results[1] != results[2]


def test_in_place() -> None:
    x = emulator.asarray(np.linspace(-5, 5, 256, dtype=np.float32))
    right("copy4").launch(1, 64, (x, 0, x, 0, np.int64(256)))


def test_bytes_of_different_threads_are_no_race() -> None:
    x = emulator.asarray(np.arange(96, dtype=np.uint8))
    out = like(x)
    right("bytes", "unsigned char").launch(1, 96, (x, 0, out, 0, np.int64(0)), 96)
    assert emulator.asnumpy(out).tolist() == list(range(95, -1, -1))


def test_float32_subnormals_flush_and_float64_ones_do_not() -> None:
    tiny = emulator.asarray(np.array([np.finfo(np.float32).tiny], np.float32))
    out = like(tiny, 1)
    right("halve").launch(1, 1, (tiny, 0, out, 0, np.int64(0)))
    assert emulator.asnumpy(out).tolist() == [0]
    kernel = _run.HostKernel(
        KERNELS / "right.cu",
        "csm_test_halve",
        [("CSM_BODY", "halve"), ("CSM_TYPE", "float"), ("CSM_ACC", "double")],
        [kernel_root()],
    )
    kernel.launch(1, 1, (tiny, 0, out, 0, np.int64(0)))
    assert emulator.asnumpy(out).tolist() == [float(np.finfo(np.float32).tiny) / 2]
    # The launch leaves the caller's own arithmetic as it was.
    assert np.finfo(np.float32).tiny * np.float32(0.5) > 0


# ---- arrays ----


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.bool_, np.int16])
def test_arrays_go_there_and_back(order: Any, dtype: Any) -> None:
    array = np.asarray(np.arange(24).reshape(2, 3, 4), dtype=dtype, order=order)
    made = emulator.asarray(array, misalign=2 * array.itemsize)
    assert made.data.ptr % 512 == 2 * array.itemsize
    assert made.strides == array.strides and made.dtype == array.dtype
    np.testing.assert_array_equal(emulator.asnumpy(made), array)
    np.testing.assert_array_equal(emulator.asnumpy(made[::-1, 1:, ::-2]), array[::-1, 1:, ::-2])
    np.testing.assert_array_equal(emulator.asnumpy(made.T), array.T)
    assert emulator.asnumpy(emulator.asarray(np.empty((0, 3), np.float32))).shape == (0, 3)


def test_far_offsets_on_sparse_memory() -> None:
    n = 2**31 + 4096
    big, out = emulator.sparse((n,), np.float32), emulator.sparse((n,), np.float32)
    emulator._memory.view_of(big)[-4096:] = np.arange(4096, dtype=np.float32)
    kernel = right("copy4")
    with emulator.only_blocks([0, -1]):
        kernel.launch(n // 4096, 1024, (big, 0, out, 0, np.int64(n)))
    assert emulator.asnumpy(out[-4096:]).tolist() == list(range(4096))
    with emulator.only_blocks([-1]), pytest.raises(emulator.KernelError, match="out of bounds"):
        kernel.launch(n // 4096, 1024, (big, 0, out[:-4], 0, np.int64(n)))


def test_only_blocks_runs_whole_clusters() -> None:
    x = emulator.asarray(np.arange(8, dtype=np.float32))
    out = like(x, -1)
    kernel = right("cluster_sum", cluster=2)
    with emulator.only_blocks([1, -3]):
        kernel.launch(8, 32, (x, 0, out, 0, np.int64(2)), 8)
    assert emulator.asnumpy(out).tolist() == [1, 1, -1, -1, 9, 9, -1, -1]


# ---- trace ----


def test_trace_counts_bytes_and_sectors() -> None:
    n = 1000  # 250 threads' worth: the last 6 threads of 256 do nothing
    x = emulator.asarray(np.ones(n, np.float32))
    kernel = right("copy4")
    with emulator.trace() as report:
        kernel.launch(1, 256, (x, 0, like(x), 0, np.int64(n)))
        kernel.launch(2, 128, (x, 0, like(x), 0, np.int64(n)))
    assert report.global_bytes_read == report.global_bytes_written == 2 * 4 * n
    assert report.sectors_read == report.sectors_written == 2 * n // 8
    assert (report.widest_read, report.widest_written) == (16, 16)
    assert (report.launches, report.barriers, report.bank_conflicts) == (2, 0, 0)
    assert [k.grid for k in report.kernels] == [1, 2]


def test_a_trace_within_another_that_counted_as_much_ends_alone() -> None:
    x = emulator.asarray(np.ones(64, np.float32))
    with emulator.trace() as outer:
        with emulator.trace():
            pass
        right("copy4").launch(1, 64, (x, 0, like(x), 0, np.int64(64)))
    assert outer.launches == 1


def test_trace_of_an_access_that_no_lane_wants() -> None:
    x = emulator.asarray(np.ones(4, np.float32))
    with emulator.trace() as report:
        for n in (4, 1024):  # memory of an earlier launch's records must not leak into the next
            row = emulator.asarray(np.ones(n, np.float32))
            right("copy4").launch(1, 512, (row, 0, like(row), 0, np.int64(n)))
        right("copy4").launch(1, 1024, (x, 0, like(x), 0, np.int64(4)))
    assert report.sectors_read == report.sectors_written == 1 + 128 + 1


@pytest.mark.parametrize("apart, sectors", [(1, 4), (2, 8), (4, 16), (8, 32), (9, 32)])
def test_trace_counts_sectors_of_strided_access(apart: int, sectors: int) -> None:
    x = emulator.asarray(np.ones(64 * apart, np.float32))
    with emulator.trace() as report:
        right("copy_apart").launch(1, 64, (x, 0, like(x)[::apart], 0, np.int64(apart)))
    assert report.sectors_read == report.sectors_written == 2 * sectors


def test_trace_counts_a_misaligned_row() -> None:
    x = emulator.asarray(np.ones(32, np.float32), misalign=4)
    with emulator.trace() as report:
        right("copy_apart").launch(1, 32, (x, 0, like(x), 0, np.int64(1)))
    assert (report.sectors_read, report.sectors_written) == (5, 4)


# Two warps, each storing once and loading once: a stride of 2^k words meets each bank 2^k times.
@pytest.mark.parametrize("apart, extra", [(1, 0), (2, 1), (4, 3), (32, 31), (33, 0)])
def test_trace_counts_bank_conflicts(apart: int, extra: int) -> None:
    x = emulator.asarray(np.ones(64, np.float32))
    with emulator.trace() as report:
        right("banks").launch(1, 64, (x, 0, like(x), 0, np.int64(apart)), 64 * apart * 4)
    assert report.bank_conflicts == 4 * extra
    assert report.barriers == 1


def test_additions_to_one_word() -> None:
    x = emulator.asarray(np.ones(96, np.float32))
    for seed in range(5):
        total = like(x)
        with emulator.trace() as report:
            right("count").launch(1, 96, (x, 0, total, 0, np.int64(0)), 16, seed=seed)
        np.testing.assert_array_equal(emulator.asnumpy(total), 3 * 96)
        assert report.bank_conflicts == 3 * 31, "of three warps, each lane takes its turn"


def test_trace_doubles_side_by_side_do_not_conflict() -> None:
    x = emulator.asarray(np.ones(64))
    with emulator.trace() as report:
        right("banks_double", "double").launch(1, 64, (x, 0, like(x), 0, np.int64(0)), 512)
    assert report.bank_conflicts == 0


def test_trace_counts_collectives() -> None:
    x = emulator.asarray(np.ones((2, 100), np.float32))
    with emulator.trace() as report:
        right("softmax").launch(2, 64, (x, 0, like(x), 0, np.int64(100)), 8)
    assert report.barriers == 2 * 4
    assert report.shuffles == 2 * 2 * 2 * 5
    assert report.global_bytes_read == 3 * 2 * 400


# ---- arithmetic ----

_CONVERT = {"half_to_float": 0, "bfloat_to_float": 1, "float_to_half": 2, "float_to_bfloat": 3,
            "double_to_half": 4, "double_to_float_toward_zero": 5, "exp2": 6}  # fmt: skip


def convert(which: str, values: np.ndarray[Any, Any], to: Any, seed: int = 0) -> Any:
    import ctypes

    values = np.ascontiguousarray(values)
    out = np.empty(values.shape, to)
    _run.runtime().csm_convert(
        _CONVERT[which],
        ctypes.c_void_p(values.ctypes.data),
        ctypes.c_void_p(out.ctypes.data),
        ctypes.c_longlong(values.size),
        ctypes.c_ulonglong(seed),
    )
    return out


def same(got: np.ndarray[Any, Any], want: np.ndarray[Any, Any]) -> None:
    """Equal bit by bit, except that any NaN will do for a NaN."""
    with np.errstate(invalid="ignore"):
        nan = np.isnan(want.astype(np.float64))
        assert (np.isnan(got.astype(np.float64)) == nan).all()
    bits = f"u{got.itemsize}"
    np.testing.assert_array_equal(got.view(bits)[~nan], want.view(bits)[~nan])


def float_patterns() -> np.ndarray[Any, Any]:
    """All high halves of a float32 with six low ones: every tie, and both its sides."""
    high = np.arange(2**20, dtype=np.uint32) << 12
    low = np.array([0, 1, 0x7FF, 0x800, 0x801, 0xFFF], np.uint32)
    return (high[:, None] | low).ravel().view(np.float32)


def test_sixteen_bit_formats_to_float() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    same(convert("half_to_float", bits, np.float32), bits.view(np.float16).astype(np.float32))
    wide = bits.view(ml_dtypes.bfloat16).astype(np.float32)
    same(convert("bfloat_to_float", bits, np.float32), wide)


def test_float_to_sixteen_bit_formats() -> None:
    values = float_patterns()
    with np.errstate(all="ignore"):
        half, bfloat = values.astype(np.float16), values.astype(ml_dtypes.bfloat16)
    same(convert("float_to_half", values, np.uint16).view(np.float16), half)
    same(convert("float_to_bfloat", values, np.uint16).view(ml_dtypes.bfloat16), bfloat)


def test_double_conversions() -> None:
    # Each float16, each midpoint of two, and float64 next to them; and random ones.
    halves = np.arange(2**15, dtype=np.uint16).view(np.float16).astype(np.float64)
    halves = halves[np.isfinite(halves)]
    middle = (halves[1:] + halves[:-1]) / 2
    near = np.concatenate([halves, middle, [65504, 65519.99, 65520, 65520.01, 2.0**-25, 1e300]])
    near = np.concatenate([near, np.nextafter(near, 0), np.nextafter(near, np.inf)])
    rng = np.random.default_rng(0)
    wild = rng.standard_normal(10**6) * 2.0 ** rng.integers(-160, 140, 10**6)
    special = np.array([0.0, np.inf, np.nan, 5e-324, 1e308, 3.4028235677973366e38])
    values = np.concatenate([near, wild, special])
    values = np.concatenate([values, -values])
    with np.errstate(all="ignore"):
        same(
            convert("double_to_half", values, np.uint16).view(np.float16), values.astype(np.float16)
        )
        nearest = values.astype(np.float32)
        cut = np.where(np.abs(nearest.astype(np.float64)) > np.abs(values),
                       np.nextafter(nearest, np.float32(0)), nearest)  # fmt: skip
    same(convert("double_to_float_toward_zero", values, np.float32), cut)


@pytest.mark.parametrize("seed", range(3))
def test_exp2_stays_within_its_bound_and_uses_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.uniform(-126, 128, 10**6), rng.standard_normal(10**5) * 1e-3])
    values = values.astype(np.float32)
    got = convert("exp2", values, np.float32, seed).astype(np.float64)
    error = got / np.exp2(values.astype(np.float64)) - 1
    assert np.abs(error).max() <= 2.0**-22
    assert np.abs(error).max() > 0.9 * 2.0**-22
    assert abs(error.mean()) < 2.0**-28
    same(got.astype(np.float32), convert("exp2", values, np.float32, seed))
    assert (convert("exp2", values, np.float32, seed + 1) != got).any()
    special = np.array([np.inf, -np.inf, np.nan, -127, -200, 200, 129], np.float32)
    want = np.array([np.inf, 0, np.nan, 0, 0, np.inf, np.inf], np.float32)
    same(convert("exp2", special, np.float32, seed), want)


# ---- builds ----


def test_cache_folder_belongs_to_the_user_alone(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUSOFTMAX_CACHE_DIR", str(tmp_path / "cache"))
    folder = _build.cache_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    library = _build.build(_build.HERE / "runtime.cpp", (), (_build.HERE,), "-O1")
    assert library.parent == folder and library.stat().st_mode & 0o077 == 0
    assert _build.build(_build.HERE / "runtime.cpp", (), (_build.HERE,), "-O1") == library
    assert [path.name for path in folder.iterdir() if path.suffix == ".so"] == [library.name]

    library.chmod(0o722)
    with pytest.raises(PermissionError, match="can be written by other users"):
        _build.build(_build.HERE / "runtime.cpp", (), (_build.HERE,), "-O1")
    library.chmod(0o700)
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="can be written by other users"):
        _build.cache_folder()
    folder.chmod(0o700)
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.raises(PermissionError, match="belongs to another user"):
        _build.cache_folder()


def test_no_compiler_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setitem(sys.modules, "ziglang", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(emulator.CompilerNotFound, match=r'pip install "cusoftmax\[emulator\]"'):
        _build.compiler.__wrapped__()


@pytest.mark.parametrize("given", ["nonsense", "no/such/g++ -O2", "'g++"])
def test_a_compiler_that_is_not_there_is_named(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", given)
    with pytest.raises(emulator.CompilerNotFound) as missing:
        _build.compiler.__wrapped__()
    assert f"CXX={given} names none: set CXX to one, or unset it" in str(missing.value)


def test_a_compiler_may_have_options(monkeypatch: pytest.MonkeyPatch) -> None:
    command = shlex.join(_build.compiler())
    monkeypatch.setenv("CXX", f" {command} -O1 '-DNAME=a b' ")
    assert _build.compiler.__wrapped__() == (*_build.compiler(), "-O1", "-DNAME=a b")
    monkeypatch.setenv("CXX", " ")
    assert _build.compiler.__wrapped__()  # as if it was not set


def test_a_kernel_that_does_not_compile_says_why() -> None:
    with pytest.raises(emulator.BuildError, match="no_such_body"):
        right("no_such_body")
