"""Lets functions take arrays of other libraries, at no cost to calls on CuPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import ParamSpec, TypeVar

from cusoftmax.planning.checks import NotCuPy

P = ParamSpec("P")
R = TypeVar("R")


def accepting(
    *names: str,
    optional: tuple[str, ...] = (),
    results: tuple[str, ...] = (),
    in_place: str | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function that raises `NotCuPy` take arrays of other libraries.

    It is called as it is first, and again if it raises that. So it must raise it before it launches
    anything.

    Parameters
    ----------
    names, optional, results : str
        Its parameters that are arrays, those that may also be None, and those that are written.
    in_place : str, optional
        A parameter that, if True, lets the first array be written too.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def accepted(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except NotCuPy as found:
                caller = found.caller
            # Outside of it, so that an error has no context.
            from cusoftmax.runtime.foreign import Loan  # needed for such arrays only

            loan = Loan(caller)
            given = signature(function).bind(*args, **kwargs)
            given.apply_defaults()
            taken = given.arguments
            if in_place is not None and taken[in_place] is True:
                loan.result(names[0], taken[names[0]])
            for name in (*names, *optional):
                if name in names or taken[name] is not None:
                    taken[name] = loan.array(name, taken[name])
            for name in results:
                if isinstance(taken[name], tuple):
                    each = [loan.result(f"{name}[{i}]", a) for i, a in enumerate(taken[name])]
                    taken[name] = tuple(each)
                elif taken[name] is not None:
                    taken[name] = loan.result(name, taken[name])
            returned: R = loan.returned(function(*given.args, **given.kwargs))
            return returned

        return accepted

    return decorate
