"""The pictures of the documents: each from measured data, or from a launch on the emulator.

    python -m benchmarks.pictures [NAME ...] [--measure] [--out docs/pictures]

Writes NAME.png for each name, all by default. Data that take long to measure lie in the folder
`data` of the pictures as NAME.csv; --measure makes them anew, beside SciPy, PyTorch, Triton and
Liger where these are installed. A picture's caption says what it was drawn from.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import cusoftmax as cs
from benchmarks import dominant as dominant_class
from benchmarks import family as calls
from benchmarks import predicted as model
from benchmarks import traffic
from benchmarks.drawings import curves, data, look, patterns
from benchmarks.static.predictions import costs
from cusoftmax import emulator
from cusoftmax.cli.output import let_any_character_print
from cusoftmax.contract.table import CONTRACTS

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "pictures"
Array = np.ndarray[Any, np.dtype[Any]]
Row = dict[str, object]

SPREADS = (0.1, 0.3, 1, 3, 10, 30, 100, 300)
ACCURACY_SHAPE = (16, 4096)
WIDTHS = (10, 33, 100, 127, 128, 1000, 1001, 4095, 8191, 50257)
CHIPS, DTYPES = ("A100", "H100", "H200", "B200"), ("float16", "float32")
LENGTHS = (32, 128, 512, 2048, 4096, 8192, 32768, 65536, 131072)
LENGTHS += (33, 1000, 1001, 8191, 50257, 151936)  # no powers of two
GAPS = tuple(range(0, 82, 2))
TEMPERATURES = (0.5, 1.0, 4.0)
LOGITS = (2.0, 4.0, 2.0, 1.0)


# ------------------------------------------------------------------------------------- the data


def measure_accuracy(
    spreads: Sequence[float] = SPREADS, shape: tuple[int, int] = ACCURACY_SHAPE
) -> Iterator[Row]:
    """Yield the worst error of each library's softmax at each spread of the logits."""
    rng = np.random.default_rng(0)
    libraries = _softmaxes()
    for spread in spreads:
        x = (spread * rng.standard_normal(shape)).astype("float32")
        for who, softmax in libraries.items():
            (errors,) = CONTRACTS["softmax"].errors((x,), -1, (softmax(x),))
            yield {"who": who, "spread": spread, "ulp": f"{np.nanmax(errors):.4f}"}


def _softmaxes() -> dict[str, Callable[[Array], Array]]:
    def ours(x: Array) -> Array:
        with emulator.activate(seed=1):
            return emulator.asnumpy(cs.softmax(emulator.asarray(x)))

    found: dict[str, Callable[[Array], Array]] = {"cusoftmax": ours}
    if scipy := _library("scipy.special"):
        found["SciPy"] = lambda x: scipy.softmax(x, axis=-1)
    if torch := _library("torch"):
        found["PyTorch"] = lambda x: torch.softmax(torch.from_numpy(x), -1).numpy()
    return found


def measure_sectors(widths: Sequence[int] = WIDTHS) -> Iterator[Row]:
    """Yield the sectors over the least of rows of each length, before and after staging."""
    for dtype in DTYPES:
        for n in widths:
            for when, staged in (("before", False), ("after", True)):
                found = traffic.sectors("softmax", dtype, traffic.few_rows(n), staged=staged)
                most = max(found.read, found.written)
                yield {"dtype": dtype, "n": n, "when": when, "sectors": f"{most:.4f}"}


def measure_predicted(
    lengths: Sequence[int] = LENGTHS, chips: Sequence[str] = CHIPS
) -> Iterator[Row]:
    """Yield the predicted fraction of a copy of softmax, ours and the peers'."""
    places = [(dtype, chip) for dtype in DTYPES for chip in chips]
    peers = {} if model.peer_cost.missing() else model.peer_cost.PEERS
    for who in ("cusoftmax", *peers):
        for dtype, chip in places:
            cases = [model.Case("softmax", dtype, n, chip) for n in lengths]
            if who == "cusoftmax":
                points = [(case.n, p.fraction) for case, p in model.predict(cases).items()]
            else:
                points, _ = model.peers_fractions(who, cases)
            for n, fraction in points:
                yield {"who": who, "dtype": dtype, "chip": chip, "n": n} | {
                    "fraction": f"{fraction:.4f}"
                }


def measure_family(
    of: Sequence[calls.Call] = calls.CALLS, dtypes: Sequence[str] = calls.DTYPES
) -> Iterator[Row]:
    """Yield what is predicted of each call of the family, and what it aims at."""
    found = costs(calls.cases(of, dtypes))
    for call in of:
        for dtype in dtypes:
            for chip in calls.CHIPS:
                cost = found[call.on(chip, dtype)]
                yield {"call": call.what, "rows": call.rows, "n": call.n} | {
                    "dtype": dtype,
                    "chip": chip,
                    "fraction": f"{cost.fraction_of_copy:.4f}",
                    "of_bandwidth": f"{cost.fraction_of_bandwidth:.4f}",
                    "microseconds": f"{cost.seconds * 1e6:.3f}",
                    "aim": call.aim_on(chip),
                    "instructions": f"{cost.instructions:.1f}",
                    "blocks": cost.slowest.occupancy.blocks,
                    "limiter": cost.slowest.limiter,
                }


def measure_dominant(gaps: Sequence[int] = GAPS) -> Iterator[Row]:
    """Yield the relative error of the derivative of the largest class at each gap."""
    with emulator.activate():
        for who, entry in dominant_class.entries().items():
            errors = dominant_class.errors(entry, who, "float32", tuple(gaps))
            for gap, error in zip(gaps, errors, strict=True):
                yield {"who": who, "gap": gap, "relative_error": f"{error:.3e}"}


MEASURED: dict[str, tuple[Callable[[], Iterable[Row]], tuple[str, ...]]] = {
    "accuracy": (measure_accuracy, ("numpy", "scipy", "torch")),
    "sectors": (measure_sectors, ()),
    "predicted": (measure_predicted, ("nvidia-cuda-nvrtc", "triton", "liger-kernel")),
    "family": (measure_family, ("nvidia-cuda-nvrtc",)),
    "dominant": (measure_dominant, ("numpy", "scipy", "torch")),
}


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def versions(packages: Iterable[str]) -> str:
    """Return the versions of packages that are installed."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def measure(name: str, folder: Path) -> None:
    """Measure a picture's data and write them."""
    rows, packages = MEASURED[name]
    command = f"python -m benchmarks.pictures {name} --measure"
    data.write(folder / "data" / f"{name}.csv", rows(), command, versions(packages))


# ---------------------------------------------------------------------------------- the pictures


def jacobian(file: Path) -> str:
    """Draw the Jacobian at a few temperatures, computed as it is drawn."""
    heat_maps = importlib.import_module("cusoftmax.cli.plot").heat_maps
    with emulator.activate():
        y = cs.softmax(emulator.asarray(np.array(LOGITS) / np.array(TEMPERATURES)[:, None]))
        jacobians = emulator.asnumpy(cs.softmax_jacobian(y))
        values = emulator.asnumpy(y)
    caption = (
        f"Jacobian of softmax of {list(map(int, LOGITS))} over the temperature. As that falls, y "
        "nears a one-hot vector and the Jacobian 0; rows and columns sum to 0. Data: computed by "
        "softmax_jacobian on the emulator as `python -m benchmarks.pictures jacobian` drew it."
    )
    title = "Softmax's Jacobian: diag(y) less the outer product of y with itself"
    with look.picture(file, 3.0, title, caption, ncols=len(TEMPERATURES), sharey=True) as (
        figure,
        (axes,),
    ):
        heat_maps(figure, axes, values, jacobians, TEMPERATURES)
    return caption


CURVES = {"accuracy": curves.accuracy, "sectors": curves.sectors, "predicted": curves.predicted}
CURVES |= {"family": curves.family, "dominant": curves.dominant}
NAMES = (*CURVES, "jacobian", *patterns.PICTURES)


def draw(name: str, folder: Path, measured: Path | None = None) -> str:
    """Draw a picture; return its caption.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    folder : Path
        Where NAME.png goes.
    measured : Path, optional
        The folder of the data, by default that of `folder`.
    """
    file = folder / f"{name}.png"
    if name in CURVES:
        table = data.read((measured or folder / "data") / f"{name}.csv")
        return CURVES[name](table, file)
    if name == "jacobian":
        return jacobian(file)
    title, example, drawn = patterns.PICTURES[name]
    return drawn(title, example, file)


def main() -> int:
    """Run the command line."""
    let_any_character_print()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--measure", action="store_true", help="make the data anew")
    parser.add_argument("--out", type=Path, default=FOLDER, help="default: docs/pictures")
    given = parser.parse_args()
    if unknown := set(given.names) - set(NAMES):
        parser.error(f"no picture {sorted(unknown)[0]!r}: there are {', '.join(NAMES)}")
    for name in given.names or NAMES:
        if given.measure and name in MEASURED:
            measure(name, given.out)
        print(f"{given.out / name}.png: {draw(name, given.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
