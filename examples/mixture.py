"""A mixture of Gaussians fitted to the iris flowers by expectation and maximisation.

    python -m examples.mixture [--rounds 40] [--picture mixture.png]

With z[i, k] the logarithm of weight times density of flower i in component k, the log-likelihood
of a flower is logsumexp(z[i]) and its share of each component is softmax(z[i]). No exponential is
formed outside of these, so flowers far from all components do no harm. The likelihood never falls.
"""

from __future__ import annotations

from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Ellipse
from sklearn.datasets import load_iris

import cusoftmax as cs
from examples.where import Where, options, save, where

COMPONENTS = 3


def log_joint(x: Any, weight: Any, mean: Any, covariance: Any, xp: Any) -> Any:
    """Return ln(weight · density) of each point in each component."""
    away = x[:, None] - mean
    lower = xp.linalg.cholesky(covariance)
    whitened = xp.linalg.solve(lower[None], away[..., None])[..., 0]
    log_root = xp.log(xp.diagonal(lower, axis1=1, axis2=2)).sum(1)
    density = -0.5 * (whitened**2).sum(2) - log_root - 0.5 * x.shape[1] * np.log(2 * np.pi)
    return xp.log(weight) + density


def maximise(x: Any, share: Any, xp: Any) -> tuple[Any, Any, Any]:
    """Return the weights, means and covariances that are most likely for such shares."""
    count = share.sum(0)
    mean = share.T @ x / count[:, None]
    away = x[:, None] - mean
    covariance = xp.einsum("nk,nki,nkj->kij", share, away, away) / count[:, None, None]
    return count / len(x), mean, covariance


def fit(on: Where, points: np.ndarray[Any, Any], rounds: int) -> tuple[list[float], Any, Any, Any]:
    """Return the log-likelihood of every round, and the last shares, means and covariances."""
    xp, rng = on.xp, np.random.default_rng(0)
    x = xp.asarray(points)
    mean = xp.asarray(points[rng.choice(len(points), COMPONENTS, replace=False)])
    covariance = xp.asarray(np.stack([np.diag(points.var(0)) / 10] * COMPONENTS))
    weight = xp.full(COMPONENTS, 1 / COMPONENTS)
    likelihoods: list[float] = []
    for number in range(rounds):
        z = on.given(log_joint(x, weight, mean, covariance, xp))
        likelihoods.append(float(on.back(cs.logsumexp(z, axis=1)).sum()))
        share = on.back(cs.softmax(z, axis=1))
        weight, mean, covariance = maximise(x, share, xp)
        if number % 5 == 0 or number == rounds - 1:
            print(f"round {number + 1:2}: log-likelihood {likelihoods[-1]:.4f}")
    return likelihoods, on.host(share), on.host(mean), on.host(covariance)


def agreement(share: np.ndarray[Any, Any], species: np.ndarray[Any, Any]) -> float:
    """Return the part of the flowers whose likeliest component is mostly of their species."""
    found = share.argmax(1)
    right = [np.bincount(species[found == k], minlength=1).max() for k in np.unique(found)]
    return float(sum(right) / len(species))


def picture(
    likelihoods: list[float], points: np.ndarray[Any, Any], share: Any, mean: Any, covariance: Any
) -> Any:
    """Draw the likelihood against the rounds, and the components over two of the measures."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    left.plot(range(2, len(likelihoods) + 1), likelihoods[1:], marker=".")
    left.set(xlabel="round", ylabel="log-likelihood", title="never falls (from round 2 on)")
    axes = [2, 3]
    right.scatter(*points[:, axes].T, c=share, s=18)
    for k in range(COMPONENTS):
        size, direction = np.linalg.eigh(covariance[k][np.ix_(axes, axes)])
        angle = np.degrees(np.arctan2(direction[1, 1], direction[0, 1]))
        width, height = 4 * np.sqrt(size[::-1])  # two standard deviations each way
        right.add_patch(Ellipse(mean[k][axes], width, height, angle=angle, fill=False))
    right.set(xlabel="petal length, cm", ylabel="petal width, cm")
    right.set_title("colour: share of each component")
    return figure


def main(argv: list[str] | None = None) -> tuple[list[float], float]:
    """Fit and draw; return the likelihoods and the agreement with the species."""
    parser = options(__doc__, "mixture.png")
    parser.add_argument("--rounds", type=int, default=40)
    given = parser.parse_args(argv)
    points, species = load_iris(return_X_y=True)
    with where() as on:
        likelihoods, share, mean, covariance = fit(on, points, given.rounds)
    right = agreement(share, species)
    print(f"{right:.1%} of the flowers are in a component that is mostly of their species")
    save(picture(likelihoods, points, share, mean, covariance), given.picture)
    return likelihoods, right


if __name__ == "__main__":
    main()
