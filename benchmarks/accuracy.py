"""Worst errors against exact arithmetic, beside SciPy, NumPy and PyTorch on the same data.

    python -m benchmarks.accuracy [--quick] [--arch sm_90] [--device emulator|cuda] [--json FILE]
                                  [--before FILE]

Logits are normal with standard deviations 1, 10 and 30 around 0, 1000 and -10000, rounded to the
dtype. In the derivative product, `dy` is drawn alike and `y` is the rounded exact softmax. For
log_softmax and logsumexp also rows are drawn in which one logit is 0 and the others are around
-12, -20 or -60, so that results are nearly 0. On the emulator, approximate instructions err by as
much as the PTX manual allows. The exit status is 1 if a bound of the numerical contract is
exceeded. What another checkout wrote by --json is shown beside this one's results by --before.

In float32 and bfloat16, results whose exact value is subnormal are left out, since the device may
flush them to zero; so are elements of the derivative whose `y` is subnormal.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import json
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import cusoftmax as cs
from benchmarks.suites.operations import DEFAULT_OPS, DTYPES
from cusoftmax import reference
from cusoftmax.cli.output import let_any_character_print
from cusoftmax.contract.table import CONTRACTS, CORRECTLY_ROUNDED
from cusoftmax.contract.table import NARROW as SIXTEEN_BITS

Array = np.ndarray[Any, np.dtype[Any]]
ArrayFunction = Callable[..., Array]

FLUSHED_DTYPES = ("bfloat16", "float32")
OPS = (*DEFAULT_OPS, "log_softmax", "logsumexp")
LOGARITHMS = OPS[len(DEFAULT_OPS) :]
SIGMAS, MEANS = (1, 10, 30), (0, 1000, -10000)
GAPS = (12, 20, 60)  # of the one logit that dominates a row, for the logarithms
# Row length: rows of each draw; more of the short rows, so that every length has many elements.
LENGTHS = {7: 1024, 128: 128, 4096: 8, 50257: 3, 131072: 2}
QUICK_LENGTHS = {7: 256, 128: 32, 4096: 2}


@dataclass
class WorstErrors:
    """The worst errors for one operation, dtype and row length, and where ours occurred."""

    op: str
    dtype: str
    n: int
    bound: float
    error: dict[str, float | None] = field(default_factory=dict)
    where: str = ""
    judged: int = 0
    rounded: int = 0

    def record(self, who: str, error: float | None, where: str) -> None:
        before = self.error.get(who)
        if error is None:
            self.error.setdefault(who, None)
        elif before is None or not error <= before:
            self.error[who] = error
            self.where = where if who == "cusoftmax" else self.where

    @property
    def share(self) -> float | None:
        return self.rounded / self.judged if self.judged else None

    @property
    def holds(self) -> bool:
        error = self.error["cusoftmax"]
        rounded = self.share is None or self.share >= CORRECTLY_ROUNDED
        return error is not None and error <= self.bound and rounded


def main() -> int:
    let_any_character_print()
    args = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 120)  # a file has no width
    torch = _import("torch")
    started = time.perf_counter()
    with _machine(args.device, args.arch) as (compute, title):
        console.print(f"cusoftmax on {title}; against {_versions(torch)}")
        peers = {
            "softmax": {"SciPy": _scipy("softmax"), "PyTorch": _torch_softmax(torch)},
            "softmax_vjp": {"NumPy": _numpy_vjp, "PyTorch": _torch_vjp(torch)},
            **{
                op: {"SciPy": _scipy(op), "PyTorch": _torch_logarithm(torch, op)}
                for op in LOGARITHMS
            },
        }
        lengths = QUICK_LENGTHS if args.quick else LENGTHS
        cells = list(itertools.product(DTYPES, lengths, OPS))
        steps: Iterable[tuple[str, int, str]] = cells
        if console.is_terminal:
            steps = track(cells, console=console, transient=True)
        results = [_measure(op, dtype, n, lengths[n], compute, peers[op]) for dtype, n, op in steps]
    if args.before:
        with open(args.before, encoding="utf-8") as file:
            _put_beside(results, json.load(file))
    for op in peers:
        _print(console, op, [r for r in results if r.op == op])
    console.print(
        "σ ∈ {1, 10, 30}, mean ∈ {0, 1000, −10000}, rounded to the dtype: the neighbours of −10000 "
        "are 8 away in float16, 64 in bfloat16.\nSubnormal float32 and bfloat16 results are left "
        "out: they may flush to zero."
    )
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump([asdict(r) | {"share": r.share} for r in results], file, indent=1)
    broken = [r for r in results if not r.holds]
    verdict = f"[red]{len(broken)} bounds exceeded" if broken else "[green]every bound holds"
    console.print(f"{verdict}[/]  ({time.perf_counter() - started:.0f} s)")
    return 1 if broken else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Worst errors against exact arithmetic.")
    parser.add_argument("--quick", action="store_true", help="short rows only")
    parser.add_argument("--arch", default="sm_90", help="GPU to emulate (default: %(default)s)")
    parser.add_argument("--device", choices=("emulator", "cuda"), default="emulator")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there too")
    parser.add_argument("--before", metavar="FILE", help="numbers that another checkout wrote")
    return parser.parse_args()


@contextlib.contextmanager
def _machine(device: str, arch: str) -> Iterator[tuple[ArrayFunction, str]]:
    """Yield a function that runs an operation on NumPy arrays, and where it runs."""
    if device == "cuda":
        import cupy

        def on_device(op: str, draw: int, *inputs: Array) -> Array:
            result = getattr(cs, op)(*(cupy.asarray(a) for a in inputs))
            return np.asarray(cupy.asnumpy(result))

        name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"]
        yield on_device, name.decode()
        return
    from cusoftmax import emulator

    def on_host(op: str, draw: int, *inputs: Array) -> Array:
        with emulator.activate(arch=arch, seed=draw):  # the errors of ex2.approx depend on the seed
            return emulator.asnumpy(getattr(cs, op)(*(emulator.asarray(a) for a in inputs)))

    yield on_host, f"the emulator of {arch}"


def _measure(
    op: str,
    dtype: str,
    n: int,
    rows: int,
    compute: ArrayFunction,
    peers: dict[str, ArrayFunction | None],
) -> WorstErrors:
    """Return the worst errors over all draws of a row length."""
    numpy_dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    worst = WorstErrors(op, dtype, n, CONTRACTS[op].bound[dtype])
    rng = np.random.default_rng(zlib.crc32(f"{dtype} {n}".encode()))
    kinds = [(sigma, mean, False) for sigma, mean in itertools.product(SIGMAS, MEANS)]
    kinds += [(1, -gap, True) for gap in GAPS if op in LOGARITHMS]
    for draw, (sigma, mean, dominated) in enumerate(kinds):
        logits = rng.normal(mean, sigma, (2, rows, n)).astype(numpy_dtype)
        x, dy = logits[0], logits[1]
        where = f"σ {sigma}, mean {mean}"
        inputs: tuple[Array, ...] = (x,)
        if dominated:
            x[:, n // 2] = 0
            where += ", one 0"
        if op in LOGARITHMS:
            judge = _contract_judge(op, x)
        elif op == "softmax":
            judge = _softmax_judge(reference.softmax(x, extended=True), dtype)
        else:
            y = reference.softmax(x).astype(numpy_dtype)
            inputs = (y, dy)
            judge = _vjp_judge(y, dy, dtype)
        got = compute(op, draw, *inputs)
        error = judge(got)
        worst.record("cusoftmax", _largest(error), where)
        if op == "softmax" and dtype in SIXTEEN_BITS:
            counted = ~np.isnan(error) & (got != 0)  # zeros would only embellish the share
            worst.judged += int(counted.sum())
            worst.rounded += int((error[counted] <= 0.5).sum())
        for who, peer in peers.items():
            worst.record(who, _largest(judge(peer(*inputs))) if peer else None, where)
    return worst


def _contract_judge(op: str, x: Array) -> ArrayFunction:
    contract = CONTRACTS[op]
    return lambda got: contract.errors((x,), -1, (got,))[0]


def _softmax_judge(exact: Array, dtype: str) -> ArrayFunction:
    skipped = _subnormal(exact, dtype)
    return lambda got: np.where(skipped, np.nan, reference.ulp_error(got, exact))


def _vjp_judge(y: Array, dy: Array, dtype: str) -> ArrayFunction:
    """Judge in u · |y| · (|dy| + Σ|y dy|); 16-bit results may in addition err by half an ulp."""
    exact = reference.softmax_vjp(y, dy, extended=True)
    unit = reference.vjp_bound(y, dy, u=reference.unit_roundoff(dtype))
    skipped = _subnormal(exact, dtype) | _subnormal(y.astype(np.float64), dtype)
    half_ulp = _ulp_size(exact, dtype) / 2 if dtype in SIXTEEN_BITS else 0

    def judge(got: Array) -> Array:
        error = np.abs(got.astype(np.float64).astype(np.longdouble) - exact) - half_ulp
        with np.errstate(all="ignore"):
            ratio = np.where(error <= 0, 0.0, error / unit)
        return np.where(skipped, np.nan, np.where(np.isnan(error), np.inf, ratio))

    return judge


def _subnormal(exact: Array, dtype: str) -> Array:
    if dtype not in FLUSHED_DTYPES:
        return np.zeros(exact.shape, bool)
    return np.abs(exact) < float(ml_dtypes.finfo(dtype).smallest_normal)


def _ulp_size(exact: Array, dtype: str) -> Array:
    about = ml_dtypes.finfo(dtype)
    exponent = np.frexp(np.maximum(np.abs(exact), float(about.smallest_normal)))[1] - 1
    return np.ldexp(np.longdouble(1), exponent - about.nmant)


def _largest(error: Array) -> float:
    return float(np.nanmax(error, initial=0.0))


def _scipy(op: str) -> ArrayFunction | None:
    special = _import("scipy.special")
    if special is None:
        return None

    def run(x: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(getattr(special, op)(x, axis=-1))

    return run


def _numpy_vjp(y: Array, dy: Array) -> Array:
    with np.errstate(all="ignore"):
        return y * (dy - (y * dy).sum(axis=-1, keepdims=True))


def _to_torch(torch: Any, array: Array) -> Any:
    if array.dtype.name != "bfloat16":
        return torch.from_numpy(array)
    return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)  # exact


def _from_torch(torch: Any, tensor: Any) -> Array:
    if tensor.dtype != torch.bfloat16:
        return np.asarray(tensor.numpy())
    return np.asarray(tensor.float().numpy().astype(ml_dtypes.bfloat16))


def _torch_softmax(torch: Any) -> ArrayFunction | None:
    if torch is None:
        return None
    return lambda x: _from_torch(torch, torch.softmax(_to_torch(torch, x), -1))


def _torch_logarithm(torch: Any, op: str) -> ArrayFunction | None:
    if torch is None:
        return None
    return lambda x: _from_torch(torch, getattr(torch, op)(_to_torch(torch, x), -1))


def _torch_vjp(torch: Any) -> ArrayFunction | None:
    """PyTorch's derivative as a function of `y`, as autograd calls it."""
    if torch is None:
        return None

    def vjp(y: Array, dy: Array) -> Array:
        given, gradient = _to_torch(torch, y), _to_torch(torch, dy)
        backward = torch.ops.aten._softmax_backward_data
        return _from_torch(torch, backward(gradient, given, -1, given.dtype))

    return vjp


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _versions(torch: Any) -> str:
    scipy = _import("scipy")
    return ", ".join(
        f"{name} {module.__version__ if module else 'not installed'}"
        for name, module in (("NumPy", np), ("SciPy", scipy), ("PyTorch", torch))
    )


def _put_beside(results: list[WorstErrors], before: list[dict[str, Any]]) -> None:
    """Add what another checkout measured, on the same data: draws depend on dtype and length."""
    errors = {(r["op"], r["dtype"], r["n"]): r["error"]["cusoftmax"] for r in before}
    for r in results:
        mine = {"cusoftmax": r.error["cusoftmax"], "before": errors.get((r.op, r.dtype, r.n))}
        r.error = mine | r.error


def _print(console: Console, op: str, results: list[WorstErrors]) -> None:
    unit = "ulp"
    if CONTRACTS[op].unit == "u":
        magnitude = "u·(|m| + |log s|)" if op == "logsumexp" else "u·|y|·(|dy| + Σ|y dy|)"
        unit = f"{magnitude}, 16-bit: beyond the final rounding"
    table = Table(title=f"{op}: worst error in {unit}", title_justify="left")
    for heading in ("dtype", "N"):
        table.add_column(heading, justify="right")
    others = [who for who in results[0].error if who != "cusoftmax"]
    for heading in ("bound", "cusoftmax", "met at", *others):
        table.add_column(heading, justify="left" if heading == "met at" else "right")
    if op == "softmax":
        table.add_column("correctly rounded", justify="right")
    for before, r in zip([None, *results], results, strict=False):
        if before is not None and before.dtype != r.dtype:
            table.add_section()
        mine = _error_text(r.error["cusoftmax"])
        cells = [r.dtype, str(r.n), f"{r.bound:g}", mine if r.holds else f"[red]{mine}", r.where]
        cells += [_error_text(r.error[who], who) for who in others]
        if op == "softmax":
            cells.append("" if r.share is None else f"{100 * r.share:.3f} %")
        table.add_row(*cells)
    console.print(table)


def _error_text(error: float | None, who: str = "") -> str:
    if error is None:
        return "not measured" if who == "before" else "not installed"
    return f"{error:.3f}" if error < 100 else f"{error:.3g}"


if __name__ == "__main__":
    sys.exit(main())
