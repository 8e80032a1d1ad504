"""Multi-head causal attention in PyTorch, one training step beside PyTorch's own attention.

    python -m examples.attention [--steps 40] [--picture attention.png]

`cusoftmax.torch.softmax(…, scale=, causal=True)` scales, hides the future and normalises in one
launch, and its gradient is one launch too. The same step with `scaled_dot_product_attention` gives
the differences. The model then learns to say which token is one place back, which needs
attention: the picture shows where its heads look.
"""

from __future__ import annotations

from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

import cusoftmax.torch as ct
from examples.where import options, save, where

TOKENS, WIDTH, HEADS, LENGTH, BATCH = 12, 48, 4, 16, 8
RATE = 0.01


class Attention(nn.Module):
    """A layer of attention between an embedding and logits of the next token."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.own = own
        self.token, self.place = nn.Embedding(TOKENS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.project, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, TOKENS)
        self.weights: Tensor | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.place.weight
        heads = self.project(x).unflatten(-1, (3, HEADS, WIDTH // HEADS))
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each: batch, head, place, width of a head
        if self.own:
            scale = q.shape[-1] ** -0.5
            self.weights = ct.softmax(q @ k.transpose(-1, -2), dim=-1, scale=scale, causal=True)
            mixed = self.weights @ v
        else:
            mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        logits: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return logits


def loss_of(model: Attention, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outputs, and the loss of predicting at each place the token before it."""
    logits = model(tokens)
    return logits, ct.cross_entropy(logits[:, 1:].flatten(0, 1), tokens[:, :-1].flatten())


def differences(ours: Attention, theirs: Attention, tokens: Tensor) -> tuple[float, float]:
    """Return the largest difference of outputs, and of gradients, in one step."""
    outputs, gradients = [], []
    for model in (ours, theirs):
        model.zero_grad()
        logits, loss = loss_of(model, tokens)
        loss.backward()
        outputs.append(logits.detach())
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    worst = max((a - b).abs().max().item() for a, b in zip(*gradients, strict=True))
    return (outputs[0] - outputs[1]).abs().max().item(), worst


def train(model: Attention, steps: int, place: str) -> list[float]:
    """Train on random tokens; return the loss of every step."""
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    losses = []
    for _ in range(steps):
        _, loss = loss_of(model, torch.randint(TOKENS, (BATCH, LENGTH), device=place))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def picture(losses: list[float], weights: Any) -> Any:
    """Draw the loss, and the attention of each head for the first of the last batch."""
    figure, axes = plt.subplots(1, 1 + HEADS, figsize=(13, 3), layout="constrained")
    axes[0].plot(losses)
    axes[0].set(xlabel="step", ylabel="cross-entropy", title="training")
    for head, axis in enumerate(axes[1:]):
        axis.imshow(weights[0, head].cpu(), cmap="viridis", vmin=0, vmax=1)
        axis.set(title=f"head {head}", xlabel="looked at", ylabel="place" if not head else "")
        axis.set(xticks=range(0, LENGTH, 5), yticks=range(0, LENGTH, 5))
    return figure


def main(argv: list[str] | None = None) -> tuple[float, float, list[float]]:
    """Compare, train and draw; return the two differences and the losses."""
    parser = options(__doc__, "attention.png")
    parser.add_argument("--steps", type=int, default=40)
    given = parser.parse_args(argv)
    torch.manual_seed(0)
    with where() as on:
        place = "cuda" if on.xp.__name__ == "cupy" else "cpu"
        ours, theirs = Attention(True).to(place), Attention(False).to(place)
        theirs.load_state_dict(ours.state_dict())
        tokens = torch.randint(TOKENS, (BATCH, LENGTH), device=place)
        outputs, gradients = differences(ours, theirs, tokens)
        print(f"largest difference of outputs {outputs:.1e}, of gradients {gradients:.1e}")
        losses = train(ours, given.steps, place)
        print(f"loss {losses[0]:.3f} before, {losses[-1]:.3f} after {given.steps} steps")
        assert ours.weights is not None
        save(picture(losses, ours.weights.detach()), given.picture)
    return outputs, gradients, losses


if __name__ == "__main__":
    main()
