"""What comparing the results of a call with the truth found: the worst element, in a few lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """The worst element of all results of a call.

    Attributes
    ----------
    op, dtype : str
        The operation, and the dtype of its results, which decides the bound.
    result : str
        Name of the result that the element is of, as in the table of operations.
    index : tuple of int
        Where it stands; empty where the results have no element.
    got, want : float
        The element, and the exact value.
    error, bound : float
        In the unit of the operation's bound.
    unit : {"ulp", "u"}
        Units in the last place, or unit roundoffs of what the operation's formula rounds.
    """

    op: str
    dtype: str
    result: str
    index: tuple[int, ...]
    got: float
    want: float
    error: float
    bound: float
    unit: str

    @property
    def over(self) -> float:
        """The error over the bound: at most 1 where the contract is kept."""
        return self.error / self.bound

    def told(self, pattern: str = "", kernels: Sequence[str] = (), seed: int | None = None) -> str:
        """Return a short block that says all that a failure is looked into with.

        Parameters
        ----------
        pattern, kernels : str, sequence of str
            What ran: the pattern of the plan, and the names of its kernels.
        seed : int, optional
            The emulator's.
        """
        place = ", ".join(map(str, self.index))
        lines = [
            f"{self.op} of {self.dtype}: {self.over:.4g} of the bound",
            *([f"  plan   {pattern}: {', '.join(kernels)}"] if pattern else []),
            *([f"  seed   {seed}"] if seed is not None else []),
            f"  at     {self.result}[{place}]",
            f"  got    {self.got!r}",
            f"  want   {self.want!r}",
            f"  error  {self.error:.4g} {self.unit}, of {self.bound:g} allowed",
        ]
        return "\n".join(lines)
