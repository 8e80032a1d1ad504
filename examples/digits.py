"""A classifier of handwritten digits, trained by backpropagation written by hand.

    python -m examples.digits [--epochs 12] [--picture digits.png]

Two layers: h = tanh(x W + b), logits = h V + c. The loss and its gradient with respect to the
logits come from one launch over them, `cross_entropy(…, grad=True)`; the rest is products of
matrices, with NumPy or CuPy. The data are scikit-learn's 1,797 digits of 8 x 8 pixels.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import cusoftmax as cs
from examples.where import Where, options, save, where

HIDDEN, BATCH, RATE, MOMENTUM = 48, 64, 0.1, 0.9
TESTED = 360  # digits that are not trained on


def layers(x: Any, weights: list[Any], xp: Any) -> tuple[Any, Any]:
    """Return the hidden layer and the logits of a batch."""
    w, b, v, c = weights
    hidden = xp.tanh(x @ w + b)
    return hidden, hidden @ v + c


def step(on: Where, x: Any, target: Any, weights: list[Any], moving: list[Any]) -> float:
    """Do one step of gradient descent with momentum, in place; return the mean loss before it."""
    hidden, logits = layers(x, weights, on.xp)
    loss, gradient = cs.cross_entropy(on.given(logits), on.given(target), grad=True)
    of_logits = on.back(gradient)
    of_hidden = of_logits @ weights[2].T * (1 - hidden**2)
    gradients = (x.T @ of_hidden, of_hidden.sum(0), hidden.T @ of_logits, of_logits.sum(0))
    for weight, velocity, g in zip(weights, moving, gradients, strict=True):
        velocity *= MOMENTUM
        velocity -= RATE * g
        weight += velocity
    return float(on.back(loss))


def train(on: Where, epochs: int) -> tuple[list[float], np.ndarray[Any, Any]]:
    """Train; return the loss of every step and the confusion matrix of digits not seen before."""
    xp, rng = on.xp, np.random.default_rng(0)
    pixels, digit = load_digits(return_X_y=True)
    order = rng.permutation(len(pixels))  # they come by writer
    pixels, digit = pixels[order], digit[order]
    x, target = xp.asarray(pixels.astype("float32") / 16), xp.asarray(digit)
    sizes = (pixels.shape[1], HIDDEN, 10)
    weights = []
    for inner, outer in pairwise(sizes):
        weights += [rng.normal(0, inner**-0.5, (inner, outer)), np.zeros(outer)]
    weights = [xp.asarray(weight, dtype="float32") for weight in weights]
    moving = [xp.zeros_like(weight) for weight in weights]

    losses: list[float] = []
    trained = len(pixels) - TESTED
    for epoch in range(epochs):
        order = xp.asarray(rng.permutation(trained))
        for first in range(0, trained, BATCH):
            chosen = order[first : first + BATCH]
            losses.append(step(on, x[chosen], target[chosen], weights, moving))
        _, logits = layers(x[trained:], weights, xp)
        accuracy = float((logits.argmax(1) == target[trained:]).mean())
        print(f"epoch {epoch + 1:2}: loss {losses[-1]:.4f}, accuracy {accuracy:.1%}")

    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (digit[trained:], on.host(logits.argmax(1))), 1)
    return losses, confusion


def picture(losses: list[float], confusion: np.ndarray[Any, Any]) -> Any:
    """Draw the loss of every step, and which digit was taken for which."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    left.semilogy(losses, linewidth=0.8)
    left.set(xlabel="step", ylabel="cross-entropy of the batch", title="training")
    right.imshow(confusion, cmap="Blues")
    for (true, taken), count in np.ndenumerate(confusion):
        if count:
            shade = "white" if count > confusion.max() / 2 else "black"
            right.text(taken, true, count, ha="center", va="center", color=shade, fontsize=8)
    right.set(xlabel="taken for", ylabel="digit", xticks=range(10), yticks=range(10))
    right.set_title(f"{confusion.trace() / confusion.sum():.1%} of {confusion.sum()} right")
    return figure


def main(argv: list[str] | None = None) -> float:
    """Train and draw; return the accuracy."""
    parser = options(__doc__, "digits.png")
    parser.add_argument("--epochs", type=int, default=12)
    given = parser.parse_args(argv)
    with where() as on:
        losses, confusion = train(on, given.epochs)
    save(picture(losses, confusion), given.picture)
    return float(confusion.trace() / confusion.sum())


if __name__ == "__main__":
    main()
