"""A user's script, which ``mypy --strict`` must accept; tests/test_typing.py runs it. Not executed.

CuPy has no type information: to a type checker, a CuPy array is `Any`. ``mypy.ini`` in this folder
has the two lines with which a project says so.
"""

from typing import assert_type

import cupy

import cusoftmax as cs
from cusoftmax.compat import scipy

Pair = tuple[cupy.ndarray, cupy.ndarray]

x = cupy.zeros((4, 6), dtype="float32")
target = cupy.zeros(4, dtype="int64")
flag = bool(len(x.shape))

# One result or two, by flags that are known.
assert_type(cs.logsumexp(x), cupy.ndarray)
assert_type(cs.logsumexp(x, 0, True, x, dtype="float64", scale=2), cupy.ndarray)
assert_type(cs.logsumexp(x, return_sign=False, out=target), cupy.ndarray)
assert_type(cs.logsumexp(x, return_sign=True), Pair)
assert_type(cs.logsumexp(x, None, b=x, return_sign=True, out=(x, x), causal=True), Pair)
assert_type(cs.logsumexp(x, return_sign=flag), cupy.ndarray | Pair)
assert_type(scipy.logsumexp(x), cupy.ndarray)
assert_type(scipy.logsumexp(x, b=x, return_sign=True), Pair)
assert_type(scipy.logsumexp(x, return_sign=flag), cupy.ndarray | Pair)

assert_type(cs.cross_entropy(x, target), cupy.ndarray)
assert_type(cs.cross_entropy(x, target, -1, None, -100, 0.1, reduction="sum"), cupy.ndarray)
assert_type(cs.cross_entropy(x, target, grad=False, inplace=False, check=True), cupy.ndarray)
assert_type(cs.cross_entropy(x, target, grad=True), Pair)
assert_type(cs.cross_entropy(x, target, inplace=True, softcap=30.0), Pair)
assert_type(cs.cross_entropy(x, target, grad=False, inplace=True), Pair)
assert_type(cs.cross_entropy(x, target, grad=flag), cupy.ndarray | Pair)

# What may be done with a result at once.
shapes: list[tuple[int, ...]] = [cs.logsumexp(x).shape, cs.cross_entropy(x, target).shape]
loss, gradient = cs.cross_entropy(x, target, grad=True, reduction="none")
values, indices = cs.topk_softmax(x, 2, normalise="topk", dtype="float32")
gy, gdy = cs.softmax_vjp_vjp(x, x, x, axis=(0, 1))

# Dtypes as NumPy's functions take them; one axis, several, or all.
for dtype in ("float16", cupy.float32, float):
    cs.softmax(x, axis=None, dtype=dtype)
cs.softmax(x, axis=(0, 1), out=x, scale=0.5, mask=x > 0, bias=x, causal=False)
cs.sample(x, seed=7, temperature=0.5)

plan = cs.explain("softmax", shape=x.shape, dtype=("float16",), arch="sm_90")
assert_type(plan.rows, int)
cs.warmup(["softmax"], shapes=[(4096, 32000)], dtypes=["float16"])
