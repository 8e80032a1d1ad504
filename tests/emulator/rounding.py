"""Formats of floats by Python's fractions: what numbers bits are, and numbers rounded once."""

from __future__ import annotations

import math
import struct
from fractions import Fraction

ANY_NAN = -1  # stands for any NaN where a result is expected

# Bits, digits, largest exponent.
FORMATS = {"f16": (16, 11, 15), "bf16": (16, 8, 127), "f32": (32, 24, 127), "f64": (64, 53, 1023)}
NANS = {"f16": 0x7FFF, "bf16": 0x7FFF, "f32": 0x7FFFFFFF, "f64": ANY_NAN}


def value_of(kind: str, raw: int) -> float:
    if kind == "f64":
        return float(struct.unpack("<d", struct.pack("<Q", raw))[0])
    if kind == "f16":
        return float(struct.unpack("<e", struct.pack("<H", raw))[0])
    return float(struct.unpack("<f", struct.pack("<I", raw << 16 if kind == "bf16" else raw))[0])


def rounded(kind: str, value: Fraction | float, mode: str = "rn") -> int:
    """Return the bits of the value in that format, rounded once."""
    bits, digits, most = FORMATS[kind]
    if isinstance(value, float):
        if math.isnan(value):
            return NANS[kind]
        sign = int(math.copysign(1, value) < 0)
        if not math.isinf(value) and value != 0:
            return rounded(kind, Fraction(value), mode)
        return sign << (bits - 1) | (((2 * most + 1) << (digits - 1)) if value else 0)
    sign, size = int(value < 0), abs(value)
    if not size:
        return 0
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    exponent = max(exponent, 1 - most)
    units, rest = divmod(size / Fraction(2) ** (exponent - digits + 1), 1)
    up = {
        "rn": rest > Fraction(1, 2) or (rest == Fraction(1, 2) and units % 2 == 1),
        "rz": False,
        "rm": rest > 0 and bool(sign),
        "rp": rest > 0 and not sign,
    }[mode]
    found = ((exponent + most - 1) << (digits - 1)) + units + up
    infinite = (2 * most + 1) << (digits - 1)
    if found >= infinite:
        to_infinity = mode == "rn" or mode == ("rm" if sign else "rp")
        found = infinite if to_infinity else infinite - 1
    return sign << (bits - 1) | int(found)


def flushed(kind: str, raw: int) -> int:
    """Return a float32 whose subnormals are zero; other formats have no .ftz."""
    assert kind == "f32"
    return raw & 0x80000000 if raw & 0x7F800000 == 0 else raw


def root(value: float) -> Fraction | float:
    """Return a number that rounds as the square root does."""
    if not 0 < value < math.inf:
        return value if value == 0 or value == math.inf else math.nan
    scaled = Fraction(value) * 4**1200
    whole = math.isqrt(scaled.numerator // scaled.denominator)
    return Fraction(2 * whole + (whole * whole != scaled), 2) / 2**1200
