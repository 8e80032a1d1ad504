"""The functions as modules."""

from __future__ import annotations

import torch

from cusoftmax.torch import functional


class Softmax(torch.nn.Softmax):  # type: ignore[misc]
    """`cusoftmax.torch.softmax` along `dim`, as `torch.nn.Softmax`, with this package's options.

    Parameters
    ----------
    dim : int
        The dimension that is normalised.
    scale, causal
        As for `cusoftmax.torch.softmax`. `mask` and `bias` are arguments of a call.

    Examples
    --------
    >>> import torch, cusoftmax.torch as ct
    >>> x = torch.tensor([2.0, 4.0, 2.0, 1.0], device="cuda")
    >>> ct.Softmax(dim=-1)(x)
    tensor([0.1025, 0.7573, 0.1025, 0.0377], device='cuda:0')
    """

    _function = staticmethod(functional.softmax)

    def __init__(self, dim: int, *, scale: float = 1.0, causal: bool = False) -> None:
        super().__init__(dim)
        self.scale, self.causal = scale, causal

    def extra_repr(self) -> str:
        """Return the parameters, as a module is printed."""
        return f"dim={self.dim}, scale={self.scale}, causal={self.causal}"

    def forward(
        self,
        input: torch.Tensor,
        *,
        mask: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return softmax of `input`."""
        return self._function(
            input, self.dim, scale=self.scale, mask=mask, bias=bias, causal=self.causal
        )


class LogSoftmax(Softmax):
    """`cusoftmax.torch.log_softmax` along `dim`, as `torch.nn.LogSoftmax`, with more options.

    Parameters
    ----------
    dim, scale, causal
        As for `Softmax`.

    Examples
    --------
    >>> import torch, cusoftmax.torch as ct
    >>> x = torch.tensor([2.0, 4.0, 2.0, 1.0], device="cuda")
    >>> ct.LogSoftmax(dim=-1)(x)
    tensor([-2.2780, -0.2780, -2.2780, -3.2780], device='cuda:0')
    """

    _function = staticmethod(functional.log_softmax)


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):  # type: ignore[misc]
    """`cusoftmax.torch.cross_entropy`, as `torch.nn.CrossEntropyLoss`, with this package's options.

    Parameters
    ----------
    weight, size_average, ignore_index, reduce, reduction, label_smoothing, z_loss, softcap
        As for `cusoftmax.torch.cross_entropy`.

    Examples
    --------
    >>> import torch, cusoftmax.torch as ct
    >>> x = torch.tensor([[2.0, 4.0, 2.0, 1.0]], device="cuda")
    >>> ct.CrossEntropyLoss(z_loss=0.01)(x, torch.tensor([1], device="cuda"))
    tensor(0.4610, device='cuda:0')
    """

    def __init__(
        self,
        weight: torch.Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        z_loss: float = 0.0,
        softcap: float | None = None,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.z_loss, self.softcap = z_loss, softcap

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss."""
        return functional.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            softcap=self.softcap,
        )
