"""The Jacobian of softmax at [2, 4, 2, 1], the derivation's example, at three temperatures.

    python -m examples.jacobian [--picture jacobian.png]

J = diag(y) - y y^T. It is symmetric, its rows sum to 0, and no eigenvalue is negative; one is 0,
along (1, 1, 1, 1): adding a constant to all logits changes nothing. As the temperature falls, y
nears a one-hot and J nears 0; as it rises, y nears 1/4 each and the other eigenvalues near 1/4.
"""

from __future__ import annotations

from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

import cusoftmax as cs
from examples.where import options, save, where

LOGITS = (2.0, 4.0, 2.0, 1.0)
TEMPERATURES = (0.5, 1.0, 4.0)
Array = np.ndarray[Any, Any]


def jacobians() -> tuple[Array, Array]:
    """Return softmax and its Jacobian at each temperature, with respect to logits over it."""
    with where() as on:
        rows = np.array(LOGITS) / np.array(TEMPERATURES)[:, None]
        y = cs.softmax(on.given(on.xp.asarray(rows)))
        return on.host(on.back(y)), on.host(on.back(cs.softmax_jacobian(y)))


def picture(y: Array, jacobian: Array) -> Any:
    """Draw each Jacobian as a heat map above its eigenvalues."""
    figure, axes = plt.subplots(2, len(TEMPERATURES), figsize=(10, 6), layout="constrained")
    most = abs(jacobian).max()
    for (above, below), row, j, temperature in zip(axes.T, y, jacobian, TEMPERATURES, strict=True):
        image = above.imshow(j, cmap="RdBu_r", vmin=-most, vmax=most)
        for place, value in np.ndenumerate(j):
            shade = "white" if abs(value) > 0.7 * most else "black"
            above.text(*place[::-1], f"{value:.2g}", ha="center", va="center", color=shade, size=8)
        result = ", ".join(f"{value:.2f}" for value in row)
        above.set_title(f"temperature {temperature:g}\ny = {result}", fontsize=10)
        above.set(xticks=range(4), yticks=range(4), xlabel="j", ylabel="i")
        below.bar(range(4), np.linalg.eigvalsh(j)[::-1])
        below.set(xlabel="eigenvalue", ylim=(0, 0.45), xticks=[])
    figure.colorbar(image, ax=axes[0], label="∂y_i / ∂x_j", shrink=0.8)
    return figure


def main(argv: list[str] | None = None) -> tuple[Array, Array]:
    """Compute, print and draw; return softmax and its Jacobian at each temperature."""
    given = options(__doc__, "jacobian.png").parse_args(argv)
    y, jacobian = jacobians()
    for row, j, temperature in zip(y, jacobian, TEMPERATURES, strict=True):
        values = np.linalg.eigvalsh(j)[::-1]
        print(f"temperature {temperature:g}: y = " + " ".join(f"{v:.4f}" for v in row))
        print("  eigenvalues " + " ".join(f"{max(v, 0.0):.4f}" for v in values), end="")
        print(f"; rows sum to 0 within {abs(j.sum(1)).max():.0e}")
    save(picture(y, jacobian), given.picture)
    return y, jacobian


if __name__ == "__main__":
    main()
