"""The structures of machine.h as ctypes, and a function that describes arrays by them."""

from __future__ import annotations

import ctypes
import dataclasses

_ARRAY_DIMS = 32
_ARRAYS = 8

ROLES = {"none": 0, "read": 1, "write": 2, "part": 2, "both": 3}
# Elements of these roles are written exactly once (1) or at most once (2).
_ONCE = {"write": 1, "part": 2}


class ArrayStruct(ctypes.Structure):
    """``csm::Array``."""

    _fields_ = (
        ("base", ctypes.c_uint64),
        ("span", ctypes.c_int64),
        ("role", ctypes.c_int),
        ("once", ctypes.c_int),
        ("itemsize", ctypes.c_int),
        ("dims", ctypes.c_int),
        ("size", ctypes.c_int64 * _ARRAY_DIMS),
        ("stride", ctypes.c_int64 * _ARRAY_DIMS),
        ("weight", ctypes.c_int64 * _ARRAY_DIMS),
        ("elements", ctypes.c_int64),
    )


class LaunchStruct(ctypes.Structure):
    """``csm::Launch``."""

    _fields_ = (
        ("enter", ctypes.c_void_p),
        ("attach", ctypes.c_void_p),
        ("args", ctypes.POINTER(ctypes.c_void_p)),
        ("name", ctypes.c_char_p),
        ("places", ctypes.POINTER(ctypes.c_char_p)),
        ("grid", ctypes.c_int64),
        ("block", ctypes.c_int),
        ("cluster", ctypes.c_int),
        ("shared_bytes", ctypes.c_int64),
        ("seed", ctypes.c_uint64),
        ("flush_subnormals", ctypes.c_int),
        ("trace", ctypes.c_int),
        ("clusters", ctypes.POINTER(ctypes.c_int64)),
        ("cluster_count", ctypes.c_int64),
        ("arrays", ctypes.c_int),
        ("array", ArrayStruct * _ARRAYS),
    )


class ReportStruct(ctypes.Structure):
    """``csm::Report``."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            "global_bytes_read",
            "global_bytes_written",
            "sectors_read",
            "sectors_written",
            "bank_conflicts",
            "barriers",
            "cluster_barriers",
            "shuffles",
            "widest_read",
            "widest_written",
        )
    )


@dataclasses.dataclass
class _Dimension:
    size: int
    stride: int
    weight: int


def describe(
    struct: ArrayStruct,
    pointer: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    itemsize: int,
    role: str,
) -> None:
    """Fill in `struct` for an array: its bytes, and the positions of its elements in them."""
    elements = 1
    dimensions: list[_Dimension] = []
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if stride < 0:
            pointer += (size - 1) * stride if size else 0
            stride = -stride
        # A broadcast dimension of an input adds no bytes.
        if size != 1 and (stride or role != "read"):
            dimensions.append(_Dimension(size, stride, elements))
        elements *= size
    struct.itemsize = itemsize
    struct.elements = elements
    if not elements:
        return
    once = role in _ONCE
    merged, nested = _merge(dimensions, itemsize, ordered=once)
    if once and not nested:
        raise ValueError("the elements of an output array overlap")
    struct.base = pointer
    struct.span = sum((d.size - 1) * d.stride for d in merged) + itemsize
    struct.role = ROLES[role]
    struct.once = _ONCE.get(role, 0)
    struct.dims = len(merged) if nested else -1
    for i, dimension in enumerate(merged):
        struct.size[i] = dimension.size
        struct.stride[i] = dimension.stride
        struct.weight[i] = dimension.weight


def _merge(
    dimensions: list[_Dimension], itemsize: int, *, ordered: bool
) -> tuple[list[_Dimension], bool]:
    """Return the dimensions by falling stride, merged, and whether no two elements share a byte.

    With `ordered`, only dimensions that are neighbours in C order are merged, so that an offset
    gives the index of an element.
    """
    if not dimensions:
        return [_Dimension(1, itemsize, 1)], True
    joined: list[_Dimension] = []
    nested, extent = True, itemsize
    for d in sorted(dimensions, key=lambda d: (d.stride, d.weight)):
        nested = nested and d.stride >= extent
        extent += (d.size - 1) * d.stride
        if joined:
            last = joined[-1]
            follows = d.weight == last.weight * last.size or not ordered
            if d.stride == last.stride * last.size and follows:
                last.size *= d.size
                continue
        joined.append(d)
    return joined[::-1], nested
