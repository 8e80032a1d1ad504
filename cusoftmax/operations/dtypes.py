"""The accepted dtypes, and the rules for the dtypes of results and of arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

# Accepted dtypes by NumPy name, with their size in bytes.
FLOATS = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}

INTEGERS = {
    "bool": 1,
    **{f"{sign}int{8 * size}": size for sign in ("", "u") for size in (1, 2, 4, 8)},
}

ITEMSIZE = FLOATS | INTEGERS

INPUTS = tuple(ITEMSIZE)

INDICES = tuple(name for name in INTEGERS if name != "bool")

# The dtypes of offsets, which say where rows of unequal length begin.
OFFSETS = ("int32", "int64")


def output_dtype(inputs: Sequence[str]) -> str:
    """Return the default output dtype for input dtypes `inputs`.

    It is the widest float among them; float32 for float16 with bfloat16, because it holds both; and
    float64 if any is an integer or bool, as in NumPy.
    """
    if not all(dtype in FLOATS for dtype in inputs):
        return "float64"
    width = max(FLOATS[dtype] for dtype in inputs)
    widest = {dtype for dtype in inputs if FLOATS[dtype] == width}
    return widest.pop() if len(widest) == 1 else "float32"


def compute_dtype(inputs: Iterable[str], output: str) -> str:
    """Return the dtype a kernel computes in: ``"float32"`` or ``"float64"``.

    float32 is enough for the narrower floats. float64 is needed if an input or the output is
    float64, and for integers, because float32 rounds those beyond 2**24.
    """
    narrow = all(FLOATS.get(dtype, 8) <= 4 for dtype in (*inputs, output))
    return "float32" if narrow else "float64"
