"""What each PTX instruction computes, against Python's integers and fractions, on hostile inputs.

Every instruction that only computes is here: `test_every_instruction_is_tested` says so. Results
are compared bit by bit; of float64, and where the manual leaves the NaN open, as any NaN.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import pytest

from cusoftmax.emulator import ptx
from cusoftmax.emulator.ptx import decode
from tests.emulator.ptx_support import evaluate
from tests.emulator.rounding import ANY_NAN, FORMATS, NANS, flushed, root, rounded, value_of

# Of an instruction: the types of its result and operands, the operands of each case, and what the
# result must be, all as raw bits.
Cases = tuple[Sequence[str], list[tuple[int, ...]], list[int]]
Table = dict[str, Cases]

# ------------------------------------------------------------------------------------------ floats


def exactly(
    plain: Callable[..., float], exact: Callable[..., Fraction | float], *of: float
) -> Fraction | float:
    """Return what is to be rounded: `exact` of fractions, or `plain` of special values."""
    if all(map(math.isfinite, of)):
        try:
            found = exact(*map(Fraction, of))
        except ZeroDivisionError:
            pass
        else:
            if found:
                return found
    return plain(*of)


def divided(a: float, b: float) -> float:
    if b:
        return a / b
    if a == 0 or math.isnan(a):
        return math.nan
    return math.copysign(math.inf, math.copysign(1, a) * math.copysign(1, b))


def product(a: float, b: float) -> float:
    return a * b


def fused(a: float, b: float, c: float) -> float:
    """Return a * b + c where some of them is special, or the exact sum is 0."""
    if all(map(math.isfinite, (a, b, c))):
        if a * b == 0:
            return a * b + c
        return 0.0  # of two different signs
    if math.isfinite(a) and math.isfinite(b):
        return c
    return a * b + c


def larger(a: float, b: float) -> float:
    if math.isnan(a) or math.isnan(b):
        return b if math.isnan(a) else a
    if a == b:
        return a if math.copysign(1, a) > 0 else b
    return max(a, b)


def smaller(a: float, b: float) -> float:
    return -larger(-a, -b)


def or_nan(choose: Callable[[float, float], float]) -> Callable[..., float]:
    def chosen(*of: float) -> float:
        return math.nan if any(map(math.isnan, of)) else functools.reduce(choose, of)

    return chosen


# Zeros, subnormals, the smallest normal numbers, ties, the largest, infinities, and NaN: quiet,
# signalling, with a sign and a payload.
F32 = [
    *(0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000, 0x80800000),
    *(0x00800001, 0x00C00000, 0x34000000, 0x3F7FFFFF, 0x3F800000, 0x3F800001, 0xBF800000),
    *(0x3FC00000, 0x40400000, 0x4B800000, 0x4B800001, 0x7E800000, 0x7F7FFFFF, 0xFF7FFFFF),
    *(0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFC12345),
]  # fmt: skip
F64 = [
    *(0, 1 << 63, 1, 1 << 63 | 1, 0x000FFFFFFFFFFFFF, 0x0010000000000000, 0x3CA0000000000000),
    *(0x3FEFFFFFFFFFFFFF, 0x3FF0000000000000, 0x3FF0000000000001, 0xBFF0000000000000),
    *(0x3FF8000000000000, 0x4008000000000000, 0x4340000000000001, 0x7FEFFFFFFFFFFFFF),
    *(0xFFEFFFFFFFFFFFFF, 0x7FF0000000000000, 0xFFF0000000000000, 0x7FF8000000000000),
    *(0x7FF0000000000001, 0xFFF8000000012345),
]  # fmt: skip
FLOATS = {"f32": F32, "f64": F64}

# 1 + 2^-23 squared less 1 + 2^-22 is 2^-46: with two roundings it would be 0. Then a product that
# overflows by itself, one that is subnormal by itself, and sums near a tie.
FUSED = [
    (0x3F800001, 0x3F800001, 0xBF800002),
    (0x7F000000, 0x40000000, 0xFF7FFFFF),
    (0x1F800000, 0x1F800000, 0x00800000),
    (0x3F800000, 0x33800000, 0x3F800000),
    (0x3F800001, 0x33800000, 0x3F800000),
    (0x3F7FFFFF, 0x33800000, 0x3F800001),
]


# Suffix, format, whether subnormals are flushed.
FORMS = ((".f32", "f32", False), (".ftz.f32", "f32", True), (".f64", "f64", False))


def arithmetic() -> Table:
    table: Table = {}
    binary = {
        "add": (lambda a, b: a + b, lambda a, b: a + b),
        "sub": (lambda a, b: a - b, lambda a, b: a - b),
        "mul": (product, product),
    }
    for suffix, kind, ftz in FORMS:
        values = FLOATS[kind]

        def add(
            instruction: str, model: Callable[..., int], cases: list[tuple[int, ...]],
            kind: str = kind, ftz: bool = ftz, suffix: str = suffix, nan: int | None = None,
        ) -> None:  # fmt: skip
            expected = []
            for case in cases:
                given = [flushed(kind, raw) if ftz else raw for raw in case]
                found = model(*(value_of(kind, raw) for raw in given))
                expected.append(flushed(kind, found) if ftz and found >= 0 else found)
                if nan is not None and found == NANS[kind]:
                    expected[-1] = nan
            table[instruction + suffix] = ((kind,) * (1 + len(cases[0])), cases, expected)

        def round_of(plain: Any, exact: Any, kind: str = kind) -> Callable[..., int]:
            return lambda *of: rounded(kind, exactly(plain, exact, *of))

        pairs = [*itertools.product(values, repeat=2)]
        ones = [(raw,) for raw in values]
        draw = random.Random(0)
        triples = [tuple(draw.choices(values, k=3)) for _ in range(600)]
        if kind == "f32":
            triples += FUSED
        for operation, (plain, exact) in binary.items():
            add(f"{operation}.rn", round_of(plain, exact), pairs)
        add("fma.rn", round_of(fused, lambda a, b, c: a * b + c), triples)
        add("div.rn", round_of(divided, lambda a, b: a / b), pairs)
        add("rcp.rn", round_of(lambda a: divided(1, a), lambda a: 1 / a), ones)
        add("sqrt.rn", lambda a, kind=kind: rounded(kind, root(a)), ones)
        for operation, choose in (("max", larger), ("min", smaller)):
            add(operation, round_of(choose, lambda *_: 0), pairs)
            if kind == "f32":
                for_nan = round_of(or_nan(choose), lambda *_: 0)
                spelled = f"{operation}.ftz.NaN.f32" if ftz else f"{operation}.NaN.f32"
                add("", for_nan, pairs, suffix=spelled)
        if kind == "f32":
            three = [tuple(draw.choices(values, k=3)) for _ in range(300)]
            spelled = "max.ftz" if ftz else "max"
            of_three = round_of(lambda *of: functools.reduce(larger, of), lambda *_: 0)
            add("", of_three, three, suffix=f"{spelled}.f32 ")
            add("", round_of(or_nan(larger), lambda *_: 0), three, suffix=f"{spelled}.NaN.f32 ")
        for operation, change in (("neg", lambda a: -a), ("abs", abs)):
            changed = lambda a, of=change, kind=kind: rounded(kind, of(a))  # noqa: E731
            add(operation, changed, ones, nan=ANY_NAN)
        compare = {
            "eq": lambda a, b: a == b, "ne": lambda a, b: a != b,
            "lt": lambda a, b: a < b, "le": lambda a, b: a <= b,
            "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
        }  # fmt: skip
        for relation, holds in compare.items():
            for unordered in (False, True):
                expected = []
                for case in pairs:
                    a, b = (value_of(kind, flushed(kind, raw) if ftz else raw) for raw in case)
                    nan = math.isnan(a) or math.isnan(b)
                    expected.append(int(unordered if nan else holds(a, b)))
                spelled = f"setp.{relation}{'u' * unordered}{suffix}"
                table[spelled] = (("pred", kind, kind), pairs, expected)
        nans = [int(any(math.isnan(value_of(kind, raw)) for raw in case)) for case in pairs]
        table[f"setp.nan{suffix}"] = (("pred", kind, kind), pairs, nans)
        table[f"setp.num{suffix}"] = (("pred", kind, kind), pairs, [1 - nan for nan in nans])
    return table


def pairs_of_floats() -> Table:
    """Two float32 at once: whatever one float32 gives, with other operands in the upper half."""
    table: Table = {}
    single = arithmetic()
    draw = random.Random(1)
    for name, ftz in itertools.product(("add.rn", "sub.rn", "mul.rn", "fma.rn"), ("", ".ftz")):
        _, cases, expected = single[f"{name}{ftz}.f32"]
        order = draw.sample(range(len(cases)), len(cases))
        both = [
            tuple(high << 32 | low for low, high in zip(cases[i], cases[order[i]], strict=True))
            for i in range(len(cases))
        ]
        results = [expected[order[i]] << 32 | expected[i] for i in range(len(cases))]
        table[f"{name}{ftz}.f32x2"] = (("f32x2",) * (1 + len(cases[0])), both, results)
    sixteen = {
        "add.rn.f16x2": (2, lambda a, b: a + b, lambda a, b: a + b),
        "fma.rn.bf16x2": (3, fused, lambda a, b, c: a * b + c),
    }
    for name, (count, plain, exact) in sixteen.items():
        kind = name.split(".")[2].removesuffix("x2")
        infinity = rounded(kind, math.inf)
        values = [*(0, 1, 2, 0x7F, 0x80, 0x3F80, 0x3F81, 0x3C00, 0x3C01), infinity - 1, infinity]
        values += [infinity + 1, infinity + 0x3F, *(value | 0x8000 for value in values)]
        near = [[0x3F81, 0x3F81, low] for low in (0x3300, 0xB300, 0xBF82, 0x2000, 0xA000)]
        ones = [draw.choices(values, k=count) for _ in range(1500)]
        ones += [[draw.randrange(1 << 16) for _ in range(count)] for _ in range(1500)]
        ones += near if count == 3 else []
        found = [
            rounded(kind, exactly(plain, exact, *(value_of(kind, raw) for raw in one)))
            for one in ones
        ]
        both = [
            tuple(high << 16 | low for low, high in zip(*two, strict=True))
            for two in itertools.pairwise(ones)
        ]
        results = [high << 16 | low for low, high in itertools.pairwise(found)]
        table[name] = (("b32",) * (1 + count), both, results)
    return table


# ------------------------------------------------------------------------------------- integers

INTEGERS = ("s16", "u16", "s32", "u32", "s64", "u64")


def integer(kind: str, raw: int) -> int:
    bits = int(kind[1:])
    raw &= (1 << bits) - 1
    return raw - (1 << bits) if kind[0] == "s" and raw >> (bits - 1) else raw


def word(kind: str, value: int) -> int:
    return value & ((1 << int(kind[1:])) - 1)


def edges(kind: str) -> list[int]:
    bits = int(kind[1:])
    top = 1 << (bits - 1)
    values = (0, 1, 2, 3, 7, top - 1, top, top + 1, 2 * top - 1, 2 * top - 2, 0x5A5A5A5A5A5A5A5A)
    return [word(kind, value) for value in values]


def quotient(a: int, b: int) -> int:
    # The manual leaves division by zero open; NVIDIA's GPUs give all ones.
    return -1 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def integers() -> Table:
    table: Table = {}

    def add(name: str, types: Sequence[str], cases: list[tuple[int, ...]], of: Any) -> None:
        result, *operands = types
        values = ([integer(k, raw) for k, raw in zip(operands, c, strict=True)] for c in cases)
        expected = [int(of(*v)) if result == "pred" else word(result, of(*v)) for v in values]
        table[name] = (types, cases, expected)

    relations: dict[str, Callable[[int, int], bool]] = {
        "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "lt": lambda a, b: a < b,
        "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
    }  # fmt: skip
    draw = random.Random(2)
    for kind in INTEGERS:
        pairs = [*itertools.product(edges(kind), repeat=2)]
        triples = [(*pair, draw.choice(edges(kind))) for pair in pairs]
        same = (kind,) * 3
        add(f"add.{kind}", same, pairs, lambda a, b: a + b)
        add(f"sub.{kind}", same, pairs, lambda a, b: a - b)
        add(f"mul.lo.{kind}", same, pairs, lambda a, b: a * b)
        add(f"mad.lo.{kind}", (kind,) * 4, triples, lambda a, b, c: a * b + c)
        add(f"div.{kind}", same, pairs, quotient)
        add(f"rem.{kind}", same, pairs, lambda a, b: a - quotient(a, b) * b)
        add(f"min.{kind}", same, pairs, min)
        add(f"max.{kind}", same, pairs, max)
        if kind == "s32":
            add("min.relu.s32", same, pairs, lambda a, b: max(0, min(a, b)))
            add("max.relu.s32", same, pairs, lambda a, b: max(0, a, b))
        for relation, holds in relations.items():
            add(f"setp.{relation}.{kind}", ("pred", kind, kind), pairs, holds)
        if kind[0] == "s":
            ones = [(raw,) for raw in edges(kind)]
            add(f"neg.{kind}", (kind, kind), ones, lambda a: -a)
            add(f"abs.{kind}", (kind, kind), ones, abs)
        bits = int(kind[1:])
        if bits < 64:
            wide = f"{kind[0]}{2 * bits}"
            add(f"mul.wide.{kind}", (wide, kind, kind), pairs, lambda a, b: a * b)
            thirds = [(*pair, draw.choice(edges(wide))) for pair in pairs]
            add(f"mad.wide.{kind}", (wide, kind, kind, wide), thirds, lambda a, b, c: a * b + c)
        if bits > 16:
            add(f"mul.hi.{kind}", same, pairs, lambda a, b, bits=bits: a * b >> bits)
    for kind in ("b16", "b32", "b64"):
        pairs = [*itertools.product(edges(kind), repeat=2)]
        for relation in ("eq", "ne"):
            add(f"setp.{relation}.{kind}", ("pred", kind, kind), pairs, relations[relation])
    return table


# ----------------------------------------------------------------------------------------- bits

DISTANCES = (0, 1, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 0x80000001, 0xFFFFFFFF)


def inserted(bits: int, a: int, b: int, start: int, length: int) -> int:
    start, length = start & 255, length & 255
    for i in range(length):
        if start + i < bits:
            b = b & ~(1 << (start + i)) | ((a >> i & 1) << (start + i) if i < bits else 0)
    return b


def permuted(a: int, b: int, choice: int) -> int:
    octets = [*a.to_bytes(4, "little"), *b.to_bytes(4, "little")]
    found = []
    for digit in (choice >> shift & 15 for shift in (0, 4, 8, 12)):
        octet = octets[digit & 7]
        found.append(255 * (octet >> 7) if digit & 8 else octet)
    return int.from_bytes(bytes(found), "little")


def bitwise() -> Table:
    table: Table = {}

    def add(name: str, types: Sequence[str], cases: Sequence[tuple[int, ...]], of: Any) -> None:
        table[name] = (types, [*cases], [of(*case) for case in cases])

    for kind in ("b16", "b32", "b64", *INTEGERS, "f32", "f64"):
        # A signalling NaN stays what it is: a copy computes nothing.
        values = FLOATS[kind] if kind in FLOATS else edges(kind)
        add(f"mov.{kind}", (kind, kind), [(raw,) for raw in values], lambda a: a)
        chosen = [(a, b, c) for a, b in itertools.pairwise(values) for c in (0, 1)]
        add(f"selp.{kind}", (kind, kind, kind, "pred"), chosen, lambda a, b, c: a if c else b)
    for kind in ("b16", "b32", "b64"):
        pairs = [*itertools.product(edges(kind), repeat=2)]
        same = (kind,) * 3
        add(f"and.{kind}", same, pairs, lambda a, b: a & b)
        add(f"or.{kind}", same, pairs, lambda a, b: a | b)
        add(f"xor.{kind}", same, pairs, lambda a, b: a ^ b)
        ones = [(raw,) for raw in edges(kind)]
        add(f"not.{kind}", (kind, kind), ones, lambda a, kind=kind: word(kind, ~a))
        far = [*itertools.product(edges(kind), DISTANCES)]
        shift = (kind, kind, "u32")
        add(f"shl.{kind}", shift, far, lambda a, by, k=kind: word(k, a << min(by, 64)))
    for kind in INTEGERS:
        far = [*itertools.product(edges(kind), DISTANCES)]
        right = lambda a, by, k=kind: word(k, integer(k, a) >> min(by, 64))  # noqa: E731
        add(f"shr.{kind}", (kind, kind, "u32"), far, right)
    booleans = [*itertools.product((0, 1), repeat=2)]
    preds = ("pred",) * 3
    add("and.pred", preds, booleans, lambda a, b: a & b)
    add("or.pred", preds, booleans, lambda a, b: a | b)
    add("xor.pred", preds, booleans, lambda a, b: a ^ b)
    add("not.pred", ("pred", "pred"), [(0,), (1,)], lambda a: 1 - a)
    add("mov.pred", ("pred", "pred"), [(0,), (1,)], lambda a: a)
    for kind in ("b32", "b64"):
        bits = int(kind[1:])
        ones = [(raw,) for raw in (*edges(kind), *(1 << i for i in range(0, bits, 5)))]
        add(f"popc.{kind}", ("u32", kind), ones, lambda a: a.bit_count())
        add(f"clz.{kind}", ("u32", kind), ones, lambda a, bits=bits: bits - a.bit_length())
        fields = [
            (a, b, start, length)
            for a, b in ((0x5A5A5A5A5A5A5A5A, (1 << 64) - 1), ((1 << 64) - 1, 0))
            for start in (0, 3, 31, 32, 63, 64, 255, 256)
            for length in (0, 1, 8, 32, 33, 64, 65, 255, 256)
        ]
        fields = [(word(kind, a), word(kind, b), *rest) for a, b, *rest in fields]
        insert = lambda *of, bits=bits: inserted(bits, *of)  # noqa: E731
        add(f"bfi.{kind}", (kind, kind, kind, "u32", "u32"), fields, insert)
    ones = [(raw,) for raw in (*edges("u32"), *(3 << i for i in range(0, 31, 3)))]
    add("brev.b32", ("b32", "b32"), ones, lambda a: int(f"{a:032b}"[::-1], 2))
    find = lambda a: a.bit_length() - 1 if a else 0xFFFFFFFF  # noqa: E731
    add("bfind.u32", ("u32", "u32"), ones, find)
    add("bfind.shiftamt.u32", ("u32", "u32"), ones, lambda a: 31 - find(a) if a else find(a))
    choices = (0x3210, 0x7654, 0x0123, 0xFEDC, 0xBA98, 0x5410, 0x7632, 0xFFFF3210, 0x8888)
    bytes_of = [(0x807F01FF, 0x80FE7F00, choice) for choice in choices]
    add("prmt.b32", ("b32", "b32", "b32", "b32"), bytes_of, permuted)
    halves = [(0xFFFF0003, 0xFF02FF80, 7), (0x00010002, 0x01020304, 0xFFFFFFFF)]
    for name, shift in (("lo", 0), ("hi", 16)):
        dot = lambda a, b, c, shift=shift: word(  # noqa: E731
            "b32", c + (a & 0xFFFF) * (b >> shift & 0xFF) + (a >> 16) * (b >> shift + 8 & 0xFF)
        )
        add(f"dp2a.{name}.u32.u32", ("b32", "b32", "b32", "b32"), halves, dot)
    funnel = [(0x89ABCDEF, 0x01234567, by) for by in DISTANCES]
    for limit in ("wrap", "clamp"):
        by_of = (lambda by: by & 31) if limit == "wrap" else (lambda by: min(by, 32))
        left = lambda a, b, c, by_of=by_of: word("b32", ((b << 32 | a) << by_of(c)) >> 32)  # noqa: E731
        right = lambda a, b, c, by_of=by_of: word("b32", (b << 32 | a) >> by_of(c))  # noqa: E731
        add(f"shf.l.{limit}.b32", ("b32", "b32", "b32", "u32"), funnel, left)
        add(f"shf.r.{limit}.b32", ("b32", "b32", "b32", "u32"), funnel, right)
    return table


# ---------------------------------------------------------------------------------- conversions

WIDTHS = ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64")
TO_WHOLE: dict[str, Callable[[Fraction], int]] = {
    "rni": round,
    "rzi": math.trunc,
    "rmi": math.floor,
    "rpi": math.ceil,
}
# Halfway cases, and the numbers on both sides of the ends of every integer type.
REAL = [
    *(sign * k / 4 for k in (0, 1, 2, 3, 4, 6, 10, 14, 18) for sign in (1, -1)),
    *(
        sign * (2.0**bits + delta)
        for bits in (7, 8, 15, 16, 31, 32, 63, 64)
        for delta in (-1.0, -0.5, 0.0, 0.5, 1.0)
        for sign in (1, -1)
    ),
    *(1e30, -1e30, 1e-40, -1e-40, 8388607.5, 4194304.5, -4194305.5, 4503599627370495.5),
]  # fmt: skip


def to_integer(kind: str, source: str, value: float, mode: str) -> int:
    bits = int(kind[1:])
    if math.isnan(value):
        return 1 << (bits - 1) if source == "f64" or bits == 64 else 0
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if kind[0] == "s" else (0, 2**bits - 1)
    if math.isinf(value):
        return word(kind, high if value > 0 else low)
    return word(kind, min(max(TO_WHOLE[mode](Fraction(value)), low), high))


def conversions() -> Table:
    table: Table = {}
    for source, to in itertools.product(WIDTHS, repeat=2):
        cases = [(raw,) for raw in edges(source)]
        expected = [word(to, integer(source, raw)) for (raw,) in cases]
        table[f"cvt.{to}.{source}"] = ((to, source), cases, expected)
    for source in WIDTHS:
        # 2^24 + 1, + 3 and their like in float64 are halfway.
        near = (2**24 + 1, 2**24 + 3, 2**25 + 6, 2**53 + 1, 2**53 + 3, 2**63 - 2**39, 2**64 - 1)
        cases = [(word(source, raw),) for raw in (*edges(source), *near)]
        for to in ("f32", "f64"):
            expected = [rounded(to, Fraction(integer(source, raw))) for (raw,) in cases]
            table[f"cvt.rn.{to}.{source}"] = ((to, source), cases, expected)
    for source, ftz in (("f32", ""), ("f32", ".ftz"), ("f64", "")):
        raws = [*FLOATS[source], *(rounded(source, value) for value in REAL)]
        cases = [(raw,) for raw in raws]
        values = [value_of(source, flushed(source, raw) if ftz else raw) for raw in raws]
        for mode in TO_WHOLE:
            for to in WIDTHS:
                expected = [to_integer(to, source, value, mode) for value in values]
                table[f"cvt.{mode}{ftz}.{to}.{source}"] = ((to, source), cases, expected)
            whole = [
                rounded(source, math.copysign(TO_WHOLE[mode](Fraction(v)), v))
                if math.isfinite(v)
                else rounded(source, v)
                for v in values
            ]
            table[f"cvt.{mode}{ftz}.{source}.{source}"] = ((source, source), cases, whole)
    add_narrowing(table)
    return table


def halfway(kind: str) -> list[Fraction]:
    """Return numbers around ties and ends of a format, of both signs."""
    _, digits, most = FORMATS[kind]
    unit = Fraction(2) ** (1 - digits)
    least = Fraction(2) ** (2 - digits - most)
    bases = [Fraction(1), 1 + unit, 2 - unit, 2 - 2 * unit, 1 + 6 * unit]
    found = [base + unit * part for base in bases for part in (0, *map(Fraction, (".5", ".25")))]
    found += [base + unit / 2 + Fraction(s, 2**40) for base in bases for s in (1, -1)]
    found += [least * Fraction(k, 4) for k in range(1, 14)]
    normal = Fraction(2) ** (1 - most)
    found += [normal - least / 2, normal - least / 4, normal - least, normal + least / 2]
    largest = (2 - unit) * Fraction(2) ** most
    found += [largest + unit * Fraction(2) ** most * Fraction(k, 4) for k in (0, 1, 2, 3, 4)]
    return [sign * value for value in found for sign in (1, -1)]


def add_narrowing(table: Table) -> None:
    cases64 = [(raw,) for raw in F64]
    cases64 += [(rounded("f64", value),) for kind in ("f32", "f16") for value in halfway(kind)]
    for ftz in ("", ".ftz"):
        flush = functools.partial(flushed, "f32") if ftz else (lambda raw: raw)
        for mode in ("rn", "rz", "rm", "rp"):
            expected = [flush(rounded("f32", value_of("f64", raw), mode)) for (raw,) in cases64]
            table[f"cvt.{mode}{ftz}.f32.f64"] = (("f32", "f64"), cases64, expected)
        cases = [(raw,) for raw in F32]
        wide = [rounded("f64", value_of("f32", flush(raw))) for (raw,) in cases]
        table[f"cvt{ftz}.f64.f32"] = (("f64", "f32"), cases, wide)
    expected = [rounded("f16", value_of("f64", raw)) for (raw,) in cases64]
    table["cvt.rn.f16.f64"] = (("f16", "f64"), cases64, expected)
    for kind in ("f16", "bf16"):
        every = [(raw,) for raw in range(0, 1 << 16, 7)]
        wide = [rounded("f32", value_of(kind, raw)) for (raw,) in every]
        table[f"cvt.f32.{kind}"] = (("f32", kind), every, wide)
        cases = [(raw,) for raw in F32]
        cases += [(rounded("f32", value),) for value in halfway(kind)]
        expected = [rounded(kind, value_of("f32", raw)) for (raw,) in cases]
        table[f"cvt.rn.{kind}.f32"] = ((kind, "f32"), cases, expected)
        two = [(a, b) for (a,), (b,) in itertools.pairwise(cases)]
        both = [high << 16 | low for high, low in itertools.pairwise(expected)]
        table[f"cvt.rn.{kind}x2.f32"] = (("b32", "f32", "f32"), two, both)


# --------------------------------------------------------------------------------------- the tests

GROUPS: dict[str, Callable[[], Table]] = {
    "bits": bitwise,
    "integers": integers,
    "floats": arithmetic,
    "pairs": pairs_of_floats,
    "conversions": conversions,
}
# Tested by themselves: within a bound here, or in test_ptx_checks.py.
APPROXIMATE = ("ex2.approx.ftz.f32", "lg2.approx", "rcp.approx", "div.full")
ADDRESSES = ("cvta.", "mapa.")


@functools.cache
def tables() -> dict[str, Table]:
    return {group: make() for group, make in GROUPS.items()}


def is_right(kind: str, found: int, right: int) -> bool:
    return math.isnan(value_of(kind, found)) if right == ANY_NAN else found == right


@pytest.mark.parametrize("group", GROUPS)
def test_instructions(group: str) -> None:
    table = tables()[group]
    found = evaluate({name: (types, cases) for name, (types, cases, _) in table.items()})
    wrong = {}
    for name, (types, cases, expected) in table.items():
        for case, got, right in zip(cases, found[name], expected, strict=True):
            if not is_right(types[0], got, right):
                wrong[name] = f"{', '.join(map(hex, case))} gives {got:#x}, not {right:#x}"
    assert not wrong


def test_every_instruction_is_tested() -> None:
    tested = {name.strip() for table in tables().values() for name in table}
    computing = {*ptx.known_names()} - {*decode._MACHINE}
    left = {name for name in computing if not name.startswith((*APPROXIMATE, *ADDRESSES))}
    assert tested == left


def bound_of(name: str, right: float) -> float:
    """Return the manual's bound of an approximate instruction's error."""
    unit = math.ldexp(1, max(math.frexp(right)[1] - 24, -149))
    if name.startswith("rcp"):
        return unit
    return 2 * unit if name.startswith("div") else 2.0**-22 * abs(right)


def approximate() -> Iterator[tuple[str, int, list[tuple[int, ...]], Callable[..., float]]]:
    draw = random.Random(3)
    drawn = [rounded("f32", 2.0 ** draw.uniform(-100, 100)) for _ in range(400)]
    near = [rounded("f32", draw.uniform(0.51, 1.99)) for _ in range(100)]
    powers = [rounded("f32", draw.uniform(-125, 127)) for _ in range(400)]
    yield "ex2.approx.ftz.f32", 1, [(raw,) for raw in powers], lambda a: 2.0**a
    for ftz in ("", ".ftz"):
        yield f"lg2.approx{ftz}.f32", 1, [(raw,) for raw in (*drawn, *near)], math.log2
        yield f"rcp.approx{ftz}.f32", 1, [(raw,) for raw in (*drawn, *near)], lambda a: 1 / a
        two = [*zip(near, reversed(near), strict=True)]
        yield f"div.full{ftz}.f32", 2, two, lambda a, b: a / b


@pytest.mark.parametrize(
    ("name", "operands", "cases", "right"),
    [pytest.param(*case, id=case[0]) for case in approximate()],
)
def test_error_of_approximate_instructions(
    name: str, operands: int, cases: list[tuple[int, ...]], right: Callable[..., float]
) -> None:
    types = ("f32",) * (1 + operands)
    seen = []
    reached = 0.0
    for seed in range(3):
        found = evaluate({name: (types, cases)}, seed)[name]
        seen.append(found)
        for case, raw in zip(cases, found, strict=True):
            given = [value_of("f32", word) for word in case]
            truth = right(*given)
            bound = bound_of(name, truth)
            if name.startswith("lg2") and 0.5 < given[0] < 2:
                bound = 2.0**-22
            error = abs(value_of("f32", raw) - truth) / bound
            assert error <= 1 + 1e-9, f"{name} of {given}: {error} of its bound"
            reached = max(reached, error)
    assert reached > 0.7  # else the bound is not tried
    assert seen[0] != seen[1] != seen[2]


EXACT = {
    # NaN, ±infinity, ±0, subnormals, and what is too large or too small.
    "ex2.approx.ftz.f32": {
        0x7FC00000: 0x7FFFFFFF, 0x7F800000: 0x7F800000, 0xFF800000: 0, 0: 0x3F800000,
        0x80000000: 0x3F800000, 1: 0x3F800000, 0x43180000: 0x7F800000, 0xC3000000: 0,
    },
    "lg2.approx.f32": {
        0x7FC00000: 0x7FFFFFFF, 0x7F800000: 0x7F800000, 0xFF800000: 0x7FFFFFFF, 0: 0xFF800000,
        0x80000000: 0xFF800000, 0xBF800000: 0x7FFFFFFF,
    },
    "lg2.approx.ftz.f32": {1: 0xFF800000, 0x80000001: 0xFF800000},
    "rcp.approx.f32": {
        0x7FC00000: 0x7FFFFFFF, 0x7F800000: 0, 0xFF800000: 0x80000000, 0: 0x7F800000,
        0x80000000: 0xFF800000, 1: 0x7F800000,
    },
    "rcp.approx.ftz.f32": {1: 0x7F800000, 0x80000001: 0xFF800000, 0x7F7FFFFF: 0},
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_special_values_of_approximate_instructions(name: str) -> None:
    cases = [(raw,) for raw in EXACT[name]]
    for seed in range(3):
        assert evaluate({name: (("f32", "f32"), cases)}, seed)[name] == [*EXACT[name].values()]
