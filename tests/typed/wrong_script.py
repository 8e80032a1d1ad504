"""Mistakes that ``mypy --strict`` must find, one in each marked line. Not executed."""

import cupy

import cusoftmax as cs

x = cupy.zeros((4, 6), dtype="float32")

cs.softmax([1.0, 2.0])  # wrong
cs.softmax(x, mask=[True])  # wrong
cs.softmax(x, axis="last")  # wrong
cs.softmax(x, causal="no")  # wrong
print(cs.logsumexp(x, return_sign=True).shape)  # wrong
print(cs.cross_entropy(x, x, grad=True).shape)  # wrong
cs.cross_entropy(x, x, grad="yes")  # wrong
cs.topk_softmax(x, 2.5)  # wrong
cs.topk_softmax(x, 2, normalise="rows")  # wrong
cs.warmup(shapes=(3, 5))  # wrong
cs.explain("softmax", shape=5)  # wrong
