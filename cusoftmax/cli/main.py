"""The command line: ``cusoftmax demo | check | info | explain | cost | profile | kernels``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cusoftmax import __version__
from cusoftmax.cli.arguments import axis_of, names_of, seed_of, shape_of, values
from cusoftmax.cli.output import let_any_character_print
from cusoftmax.emulator import CODES
from cusoftmax.machine import DEVICE_CHOICES, first_line

_FAILURE = 2
_TRACEBACK = "CUSOFTMAX_TRACEBACK"  # environment variable: show where an error came from


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments, by default those of the process.

    Returns
    -------
    int
        0; 1 if a check failed; 2 for an error, which is one line on standard error.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    let_any_character_print()
    try:
        if given[:1] == ["kernels"]:  # has a parser of its own
            from cusoftmax.machine_code import gate

            return int(gate.main(given[1:]) or 0)
        arguments = _parser().parse_args(values(given))
        status: int = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return _fail("interrupted")
    except BrokenPipeError:  # the reader, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name == "cusoftmax":
            raise
        wanted = "cusoftmax[cuda13]" if name == "cupy" else name
        return _fail(f'{name} is not installed: pip install "{wanted}"')
    except Exception as error:  # CuPy, the compilers and the file system raise their own types
        if os.environ.get(_TRACEBACK):
            raise
        return _fail(first_line(error))


def _fail(message: str) -> int:
    print(f"cusoftmax: error: {message}", file=sys.stderr)
    return _FAILURE


class _Parser(argparse.ArgumentParser):
    """Prints errors as one line, as the commands do."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(_fail(f"{message} (see {self.prog} --help)"))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cusoftmax",
        description="Softmax on CuPy arrays: show, check, explain.",
        epilog=f"Errors are one line; {_TRACEBACK}=1 shows where they come from.",
    )
    parser.add_argument("--version", action="version", version=f"cusoftmax {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="run a worked example, on a GPU if there is one")
    _machine_options(demo)
    demo.add_argument("--plot", type=Path, metavar="FILE", help="draw it too; needs matplotlib")
    demo.set_defaults(run=_demo)

    check = commands.add_parser("check", help="compare every dtype, pattern and operation")
    _machine_options(check)
    quick = "two operations whole, one case of the others"
    check.add_argument("--quick", action="store_true", help=quick)
    for option, what in (
        ("--op", "operation"),
        ("--dtype", "dtype of the inputs"),
        ("--pattern", "pattern of the plan"),
    ):
        more = f"only this {what}; A,B or repeated for several"
        check.add_argument(option, action="append", default=[], metavar="NAME", help=more)
    check.set_defaults(run=_check)

    info = commands.add_parser("info", help="say what is installed, found and missing")
    info.set_defaults(run=_info)

    explain = commands.add_parser("explain", help="say how a call would run, in words")
    explain.add_argument("op", help="softmax, softmax_vjp, logsumexp, ...")
    explain.add_argument("shape", help="such as 4096x32000")
    explain.add_argument("--dtype", default="float32", help="of all inputs, or one each: A,B")
    explain.add_argument("--out-dtype", help="of the result")
    explain.add_argument("--axis", default="-1", help="such as -1, none, or --axis=-2,-1")
    explain.add_argument("--arch", help="such as sm_90; by default the GPU, or sm_90 without one")
    explain.add_argument("--order", default="C", choices=("C", "F"), help="memory order")
    explain.set_defaults(run=_explain)

    cost = commands.add_parser("cost", help="predict speed and limiter from the machine code")
    cost.add_argument("op", help="softmax, softmax_vjp, logsumexp, ...")
    cost.add_argument("shape", help="such as 8192x32000")
    cost.add_argument("--dtype", default="float32", help="of all inputs, or one each: A,B")
    cost.add_argument("--out-dtype", help="of the result")
    cost.add_argument("--axis", default="-1", help="such as -1, none, or --axis=-2,-1")
    cost.add_argument("--arch", help="such as sm_90; by default the GPU, or sm_90 without one")
    cost.add_argument("--chip", help="another product of the architecture, such as H200")
    cost.add_argument("--order", default="C", choices=("C", "F"), help="memory order")
    cost.add_argument("--measured", metavar="FILE", help="results file to compare with")
    cost.add_argument("--json", action="store_true", help="for machines")
    cost.set_defaults(run=_cost)

    profile = commands.add_parser("profile", help="say why a call is not as fast as a copy")
    profile.add_argument("op", help="softmax, softmax_vjp, logsumexp, ...")
    profile.add_argument("shape", help="such as 8192x32000")
    profile.add_argument("--dtype", default="float32", help="of the inputs and the result")
    profile.add_argument("--axis", default="-1", help="such as -1, none, or --axis=-2,-1")
    profile.add_argument("--tool", default="auto", help="auto, nvprof, ncu, nsys or none")
    profile.add_argument("--emulator", action="store_true", help="count the traffic on this CPU")
    profile.add_argument("--arch", help="what the emulator plans for, such as sm_80")
    profile.add_argument("--kernel-only", action="store_true", help="no timeline")
    profile.set_defaults(run=_profile)

    commands.add_parser("kernels", help="compile the kernels and check them, without a GPU")
    return parser


def _machine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=DEVICE_CHOICES, default="auto", help="where to run")
    parser.add_argument("--arch", help="what the emulator plans for, such as sm_80")
    parser.add_argument(
        "--emulator-code",
        choices=CODES,
        help="what the emulator runs: the kernels' source, or the PTX that NVRTC makes of it",
    )
    parser.add_argument("--seed", type=seed_of, default=0, help="of the data and of the emulator")


def _demo(arguments: argparse.Namespace) -> int:
    module = importlib.import_module("cusoftmax.cli.demo")
    status: int = module.demo(
        _console(),
        arguments.device,
        arguments.arch,
        arguments.seed,
        arguments.emulator_code,
        arguments.plot,
    )
    return status


def _check(arguments: argparse.Namespace) -> int:
    from cusoftmax.operations.dtypes import INPUTS
    from cusoftmax.operations.operation import PATTERNS
    from cusoftmax.operations.table import OPERATIONS

    # Names are looked at before the modules that need CuPy are imported.
    ops = names_of("--op", arguments.op, OPERATIONS)
    dtypes = names_of("--dtype", arguments.dtype, INPUTS)
    patterns = names_of("--pattern", arguments.pattern, PATTERNS)
    module = importlib.import_module("cusoftmax.cli.check")
    asked = module.Selection(ops, dtypes, patterns)
    status: int = module.check(
        _console(),
        arguments.device,
        arguments.arch,
        arguments.seed,
        arguments.quick,
        asked,
        arguments.emulator_code,
    )
    return status


def _info(_: argparse.Namespace) -> int:
    from cusoftmax.cli.info import lines

    for label, text in lines():
        print(f"{label:<22}{text}")
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    import cusoftmax

    dtypes = tuple(arguments.dtype.split(","))
    plan = cusoftmax.explain(
        arguments.op,
        shape=shape_of(arguments.shape),
        dtype=dtypes if len(dtypes) > 1 else dtypes[0],
        axis=axis_of(arguments.axis),
        arch=arguments.arch,
        out_dtype=arguments.out_dtype,
        order=arguments.order,
    )
    print(plan)
    return 0


def _cost(arguments: argparse.Namespace) -> int:
    module = importlib.import_module("cusoftmax.cli.cost")
    shape, axis = shape_of(arguments.shape), axis_of(arguments.axis)
    return int(module.run(_console(), arguments, shape, axis))


def _profile(arguments: argparse.Namespace) -> int:
    module = importlib.import_module("cusoftmax.cli.profile")
    return int(module.run(_console(), arguments))


def _console() -> object:
    from rich.console import Console

    # rich would limit piped output to 80 columns.
    return Console(width=None if sys.stdout.isatty() else 140, highlight=False)
