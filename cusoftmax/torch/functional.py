"""The public functions: PyTorch's arguments become those of the operators."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cusoftmax.torch import derivatives  # noqa: F401  (the operators' derivatives)
from cusoftmax.torch.operators import ops
from cusoftmax.torch.tensors import FLOATS, check_tensor

Dim = int | Sequence[int]

# Functions of PyTorch that compute in float32 under autocast, by the type of the device.
_AUTOCAST_TO_FLOAT32 = {
    "cuda": {"softmax", "log_softmax", "logsumexp", "cross_entropy"},
    "cpu": {"cross_entropy"},
}


def softmax(
    input: Tensor,
    dim: Dim,
    dtype: torch.dtype | None = None,
    *,
    scale: float = 1.0,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """Softmax along one or more dimensions, as `torch.softmax`.

    Parameters
    ----------
    input : torch.Tensor
        Any shape and strides; float16, bfloat16, float32 or float64, with `dtype` also integers and
        bool.
    dim : int or sequence of int
        The dimensions that are normalised together.
    dtype : torch.dtype, optional
        Of the result. PyTorch converts `input` to it first; here nothing is rounded before the end.
    scale, mask, bias, causal
        As for `cusoftmax.softmax`: softmax of ``scale * input + bias``, over the elements where
        `mask` is True and, with `causal`, over the first ``i + 1 + n - q`` of row i of the last two
        dimensions. Hidden elements are 0, and so are rows of nothing else. `bias` has derivatives.

    Returns
    -------
    torch.Tensor
        The result, with the shape of `input` and PyTorch's dtype for it.

    Raises
    ------
    TypeError
        If `input` is an integer without `dtype`, or is where the kernels do not run: a CPU tensor
        needs the emulator.
    IndexError
        If `dim` is out of range.
    ValueError
        If `mask` or `bias` does not broadcast to `input`, or `scale` is out of range.

    Examples
    --------
    >>> import torch, cusoftmax.torch as ct
    >>> ct.softmax(torch.tensor([2.0, 4.0, 2.0, 1.0], device="cuda"), dim=-1)
    tensor([0.1025, 0.7573, 0.1025, 0.0377], device='cuda:0')
    """
    return _of_logits("softmax", input, dim, dtype, scale, mask, bias, causal)


def log_softmax(
    input: Tensor,
    dim: Dim,
    dtype: torch.dtype | None = None,
    *,
    scale: float = 1.0,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """Logarithm of softmax, as `torch.log_softmax`.

    Parameters
    ----------
    input, dim, dtype, scale, mask, bias, causal
        As for `softmax`.

    Returns
    -------
    torch.Tensor
        The result, with the shape and dtype as in `softmax`; -inf where an element is hidden.

    Raises
    ------
    TypeError, IndexError, ValueError
        As `softmax`.

    Examples
    --------
    >>> import torch, cusoftmax.torch as ct
    >>> x = torch.tensor([2.0, 4.0, 2.0, 1.0], device="cuda")
    >>> ct.log_softmax(x, dim=-1)
    tensor([-2.2780, -0.2780, -2.2780, -3.2780], device='cuda:0')
    """
    return _of_logits("log_softmax", input, dim, dtype, scale, mask, bias, causal)


def logsumexp(
    input: Tensor,
    dim: Dim,
    keepdim: bool = False,
    *,
    scale: float = 1.0,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """``log(sum(exp(input)))`` along one or more dimensions, as `torch.logsumexp`.

    Parameters
    ----------
    input, dim
        As for `softmax`. Integers and bool give PyTorch's default dtype.
    keepdim : bool
        Whether the dimensions stay in the result, with size 1.
    scale, mask, bias, causal
        As for `softmax`.

    Returns
    -------
    torch.Tensor
        The logarithm of each row's sum, with PyTorch's shape and dtype; -inf for a sum of nothing.

    Raises
    ------
    TypeError, IndexError, ValueError
        As `softmax`.

    Examples
    --------
    >>> import torch, cusoftmax.torch as ct
    >>> x = torch.tensor([2.0, 4.0, 2.0, 1.0], device="cuda")
    >>> ct.logsumexp(x, dim=-1)
    tensor(4.2780, device='cuda:0')
    """
    check_tensor("logsumexp", "input", input)
    floats = input if input.is_floating_point() else input.to(torch.get_default_dtype())
    dims = _negative("logsumexp", floats, dim)
    whole = _of_logits("logsumexp", floats, dims, None, scale, mask, bias, causal)
    return whole if keepdim or not input.dim() else whole.squeeze(dims)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    z_loss: float = 0.0,
    softcap: float | None = None,
) -> Tensor:
    """Cross-entropy of logits and targets, as `torch.nn.functional.cross_entropy`.

    The logits are read once, and once more for the gradient; no probability is ever stored.

    Parameters
    ----------
    input : torch.Tensor
        Logits of shape ``(C,)``, ``(N, C)`` or ``(N, C, d1, ...)``; dtypes as for `softmax`.
    target : torch.Tensor
        Integers, the class of each row, with the shape of `input` without ``C``; or floats, the
        probability of each class, with the shape of `input`, which have derivatives too.
    weight : torch.Tensor, optional
        A weight for each class, of shape ``(C,)`` and a float dtype; without derivatives.
    size_average : bool, optional
        As in PyTorch, which has deprecated it.
    ignore_index : int
        As in PyTorch.
    reduce : bool, optional
        As in PyTorch, which has deprecated it.
    reduction, label_smoothing
        As in PyTorch.
    z_loss, softcap
        As for `cusoftmax.cross_entropy`.

    Returns
    -------
    torch.Tensor
        The loss, or with ``reduction="none"`` that of each row, with PyTorch's shape and dtype.

    Raises
    ------
    TypeError
        As `softmax`.
    ValueError
        If the shape of `target` or `weight` does not fit, or an option is out of range.

    Notes
    -----
    A target that is neither a class nor `ignore_index` gives NaN: nothing waits for the GPU to
    look. Classes of probability or weight 0 do not affect the loss even if their logit is -inf,
    where PyTorch gives NaN.

    Examples
    --------
    >>> import torch, cusoftmax.torch as ct
    >>> x = torch.tensor([[2.0, 4.0, 2.0, 1.0]], device="cuda")
    >>> ct.cross_entropy(x, torch.tensor([1], device="cuda"))
    tensor(0.2780, device='cuda:0')
    """
    if size_average is not None or reduce is not None:
        reduction = torch.nn._reduction.legacy_get_string(size_average, reduce)
    check_reduction("cross_entropy", reduction)
    check_tensor("cross_entropy", "input", input)
    check_targets("cross_entropy", target, weight, ignore_index)
    if not input.dim():
        raise ValueError("cross_entropy: input has no dimensions; give it at least one")
    result = result_dtype("cross_entropy", input, None)
    # Losses that are summed keep the precision of the arithmetic.
    dtype = result if reduction == "none" else torch.promote_types(result, torch.float32)
    dim = (1 if input.dim() > 1 else 0) - input.dim()
    options = (dim, ignore_index, float(label_smoothing), float(z_loss), softcap)
    losses = ops.cross_entropy(input, target, weight, *options, dtype)
    classes = input.shape[dim]
    return reduced(losses, target, weight, ignore_index, classes, reduction).to(result)


def gumbel_softmax(
    logits: Tensor,
    tau: float = 1,
    hard: bool = False,
    eps: float = 1e-10,
    dim: int = -1,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
) -> Tensor:
    """Softmax of ``(logits + noise) / tau``, as `torch.nn.functional.gumbel_softmax`.

    Parameters
    ----------
    logits : torch.Tensor
        As for `softmax`.
    tau : float
        The temperature, up to 2**100.
    hard : bool
        Whether to return the one-hot of the largest element, with the gradient of the soft result.
    eps : float
        Of no effect, and deprecated in PyTorch.
    dim : int
        The dimension of the categories.
    generator : torch.Generator, optional
        Where the seed is drawn: one of the CPU. By default PyTorch's own.
    seed : int, optional
        The seed itself, from 0 to 2**63 - 1. The same seed gives the same noise.

    Returns
    -------
    torch.Tensor
        The result, with the shape of `logits` and PyTorch's dtype for it.

    Raises
    ------
    TypeError, IndexError, ValueError
        As `softmax`; ValueError also if `tau` or `seed` is out of range.

    Notes
    -----
    A CUDA graph replays the seed that it was captured with.

    Examples
    --------
    >>> import torch, cusoftmax.torch as ct
    >>> x = torch.tensor([2.0, 4.0, 2.0, 1.0], device="cuda")
    >>> ct.gumbel_softmax(x, hard=True, seed=1)
    tensor([0., 1., 0., 0.], device='cuda:0')
    """
    if eps != 1e-10:
        warnings.warn("eps has no effect", stacklevel=2)
    whole, last = _row("gumbel_softmax", logits, dim)
    dtype = result_dtype("softmax", logits, None)
    y = ops.gumbel_softmax(whole, _seed(generator, seed), last, float(tau), dtype)
    if hard:
        largest = y.detach().argmax(last, keepdim=True)
        one_hot = torch.zeros_like(y).scatter(last, largest, 1.0)
        y = one_hot - y.detach() + y
    return y.view(logits.shape) if not logits.dim() else y


def sample(
    logits: Tensor,
    dim: int = -1,
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    seed: int | None = None,
) -> Tensor:
    """The index of one draw from ``softmax(logits / temperature)`` for each row.

    Parameters
    ----------
    logits : torch.Tensor
        As for `softmax`.
    dim : int
        The dimension of the categories.
    temperature : float
        As for `cusoftmax.sample`; 0 is the argmax.
    generator, seed
        As for `gumbel_softmax`.

    Returns
    -------
    torch.Tensor of int64
        The indices, with the shape of `logits` without `dim`.

    Raises
    ------
    TypeError, IndexError, ValueError
        As `gumbel_softmax`.

    Examples
    --------
    >>> import torch, cusoftmax.torch as ct
    >>> x = torch.tensor([[2.0, 4.0, 2.0, 1.0]] * 5, device="cuda")
    >>> ct.sample(x, seed=7)
    tensor([1, 1, 1, 1, 1], device='cuda:0')
    """
    whole, last = _row("sample", logits, dim)
    return ops.sample(whole, _seed(generator, seed), last, float(temperature))


def topk_softmax(
    input: Tensor,
    k: int,
    dim: int = -1,
    normalise: Literal["row", "topk"] = "row",
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """The `k` largest probabilities of each row and their indices, in one pass over the logits.

    The formula is that of `cusoftmax.topk_softmax`.

    Parameters
    ----------
    input : torch.Tensor
        As for `softmax`.
    k : int
        How many to select: from 1 to 64.
    dim : int
        The dimension of the softmax.
    normalise : {"row", "topk"}
        Whether the values are those of `softmax`, or sum to 1.
    dtype : torch.dtype, optional
        As for `softmax`.

    Returns
    -------
    values, indices : torch.Tensor
        With the shape of `input`, but `k` elements along `dim`, in descending order. The values
        have derivatives.

    Raises
    ------
    TypeError, IndexError
        As `softmax`.
    ValueError
        If `k` is out of range, or `normalise` is not known.

    Examples
    --------
    >>> import torch, cusoftmax.torch as ct
    >>> x = torch.tensor([2.0, 4.0, 2.0, 1.0], device="cuda")
    >>> values, indices = ct.topk_softmax(x, 2)
    >>> values, indices
    (tensor([0.7573, 0.1025], device='cuda:0'), tensor([1, 0], device='cuda:0'))
    """
    if normalise not in ("row", "topk"):
        raise ValueError(
            f"topk_softmax: normalise={normalise!r} is not accepted; give 'row' or 'topk'"
        )
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)):
        raise TypeError(f"topk_softmax: k={k!r} is not accepted; give an int")
    whole, last = _row("topk_softmax", input, dim)
    dtype = result_dtype("softmax", input, dtype)
    values, indices = ops.topk_softmax(whole, k, last, normalise == "topk", dtype)
    if not input.dim():
        return values.view(()), indices.view(())
    return values, indices


def segment_softmax(input: Tensor, offsets: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Softmax of each of many segments of unequal length that lie end to end.

    Parameters
    ----------
    input : torch.Tensor, shape (E, ...)
        As for `softmax`. Further dimensions are columns with the same segments.
    offsets : torch.Tensor, shape (S + 1,)
        Where each segment begins, and where the last one ends: int32 or int64, from 0 to E.
    dtype : torch.dtype, optional
        As for `softmax`.

    Returns
    -------
    torch.Tensor
        The result, with shape and dtype as in `softmax`; NaN if offsets do not rise from 0 to E.

    Raises
    ------
    TypeError, ValueError
        As `cusoftmax.segment_softmax`.

    Examples
    --------
    >>> import torch, cusoftmax.torch as ct
    >>> x = torch.tensor([2.0, 4.0, 2.0, 1.0], device="cuda")
    >>> ct.segment_softmax(x, torch.tensor([0, 2, 4], device="cuda"))
    tensor([0.1192, 0.8808, 0.7311, 0.2689], device='cuda:0')
    """
    check_tensor("segment_softmax", "input", input)
    check_tensor("segment_softmax", "offsets", offsets)
    return ops.segment_softmax(input, offsets, result_dtype("softmax", input, dtype))


# ---------------------------------------------------------------------------------- what they share


def reduced(
    losses: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    classes: int,
    reduction: str,
) -> Tensor:
    """Return the sum or mean of each row's loss, or as many losses, as PyTorch defines them."""
    if reduction == "none":
        return losses
    total = losses.sum()
    if reduction == "sum":
        return total
    return total * share_of_a_row(losses, target, weight, ignore_index, classes)


def share_of_a_row(
    losses: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, classes: int
) -> Tensor | float:
    """Return by what a mean of each row's loss multiplies their sum."""
    if target.is_floating_point():
        return 1 / losses.numel() if losses.numel() else math.nan
    return ops.cross_entropy_divisor(target, weight, ignore_index, classes, losses.dtype)


def check_reduction(caller: str, reduction: str) -> None:
    """Raise ValueError if a reduction is not known."""
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(
            f"{caller}: reduction={reduction!r} is not accepted; give 'none', 'mean' or 'sum'"
        )


def check_targets(
    caller: str, target: Tensor, weight: Tensor | None, ignore_index: int, name: str = "weight"
) -> None:
    """Raise TypeError or ValueError if what a loss takes beside the logits is of the wrong kind."""
    check_tensor(caller, "target", target)
    if weight is not None:
        check_tensor(caller, name, weight)
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, (int, np.integer)):
        raise TypeError(f"{caller}: ignore_index={ignore_index!r} is not accepted; give an int")
    if ignore_index >= 0 and target.is_floating_point():
        raise ValueError(
            f"{caller}: ignore_index={ignore_index} with probabilities as target, which name no "
            f"class to ignore; leave it out"
        )


def result_dtype(function: str, tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """Return the dtype of a result, as PyTorch's function of that name chooses it."""
    if dtype is None:
        dtype = tensor.dtype
        kind = tensor.device.type
        if (
            function in _AUTOCAST_TO_FLOAT32.get(kind, ())
            and dtype in (torch.float16, torch.bfloat16)
            and torch.is_autocast_enabled(kind)
        ):
            dtype = torch.float32
    if dtype not in FLOATS:
        raise TypeError(
            f"{function}: a result of {dtype} is not accepted; give dtype= one of "
            f"{', '.join(map(str, FLOATS))}"
        )
    return dtype


def _negative(caller: str, tensor: Tensor, dim: Dim) -> list[int]:
    """Return dimensions as negative numbers, to which those before the tensor's do not matter."""
    ndim = max(tensor.dim(), 1)
    given: Any = dim
    dims = (list(given) or list(range(ndim))) if isinstance(given, (tuple, list)) else [given]
    for d in dims:
        if isinstance(d, bool) or not isinstance(d, (int, np.integer)):
            raise TypeError(
                f"{caller}: dim={dim!r} is not accepted; give an int, or a tuple of int"
            )
        if not -ndim <= d < ndim:
            raise IndexError(
                f"Dimension out of range (expected to be in range of [{-ndim}, {ndim - 1}], but "
                f"got {d})"
            )
    return [int(d) if d < 0 else int(d) - ndim for d in dims]


def _row(caller: str, tensor: Tensor, dim: int) -> tuple[Tensor, int]:
    """Return a tensor with at least one dimension, and `dim` as the operators take it."""
    check_tensor(caller, "input", tensor)
    if isinstance(dim, (tuple, list)):
        raise TypeError(f"{caller}: dim={dim!r} is not accepted; give an int")
    return tensor if tensor.dim() else tensor.view(1), _negative(caller, tensor, dim)[0]


def _of_logits(
    name: str,
    tensor: Tensor,
    dim: Dim,
    dtype: torch.dtype | None,
    scale: float,
    mask: Tensor | None,
    bias: Tensor | None,
    causal: bool,
) -> Tensor:
    for called, each in (("input", tensor), ("mask", mask), ("bias", bias)):
        if each is not None or called == "input":
            check_tensor(name, called, each)
    if causal is not True and causal is not False:
        raise TypeError(f"{name}: causal={causal!r} is not accepted; give True or False")
    whole = tensor if tensor.dim() else tensor.view(1)
    dims = _negative(name, tensor, dim)
    dtype = result_dtype(name, tensor, dtype)
    result: Tensor = getattr(ops, name)(whole, mask, bias, dims, float(scale), causal, dtype)
    return result if tensor.dim() else result.view(())


def _seed(generator: torch.Generator | None, seed: int | None) -> Any:
    """Return the seed of a call, as a tensor of the CPU: one that a graph computes when it runs."""
    if seed is not None:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
            raise TypeError(f"seed={seed!r} is not accepted; give an int")
        if not 0 <= seed < 1 << 63:
            raise ValueError(f"seed={seed} is not accepted; give a number from 0 to 2**63 - 1")
        return torch.tensor(seed, dtype=torch.int64)
    return torch.randint(2**63 - 1, (), generator=generator, dtype=torch.int64)
