"""One layer of graph attention over Zachary's karate club, in one launch of segment softmax.

    python -m examples.graph_attention [--picture graph_attention.png]

Each member looks at his friends and at himself. Scores of the edges are sorted by the member that
looks, so his edges are a segment, as long as he has friends: `segment_softmax` makes them weights
that sum to 1, whatever the lengths. Its gradient is one launch as well, held here against
differences.
"""

from __future__ import annotations

from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import networkx as nx
import numpy as np

import cusoftmax as cs
from examples.where import Where, options, save, where

FEATURES = 8
SLOPE = 0.2  # of the scores below 0, as in the paper on graph attention (Velickovic and others)
Array = np.ndarray[Any, Any]


def edges_of(graph: Any) -> tuple[Array, Array, Array]:
    """Return who looks and who is looked at, sorted by who looks, and where each segment begins."""
    looks = [(i, j) for i in graph for j in sorted({i, *graph[i]})]
    who, at = np.array(looks).T
    return who, at, np.concatenate([[0], np.cumsum(np.bincount(who))])


def layer(on: Where, features: Any, weight: Any, attention: Any, edges: tuple[Any, ...]) -> Any:
    """Return the new features of every member, the weights of the edges, and their scores."""
    xp, (who, at, offsets) = on.xp, edges
    h = features @ weight
    scores = h[who] @ attention[0] + h[at] @ attention[1]
    scores = xp.where(scores > 0, scores, SLOPE * scores)
    weights = on.back(cs.segment_softmax(on.given(scores), on.given(offsets)))
    new = xp.zeros_like(h)
    for feature in range(h.shape[1]):
        new[:, feature] = xp.bincount(who, weights * h[at, feature], minlength=len(h))
    return new, weights, scores


def check_gradient(on: Where, scores: Any, offsets: Any, rng: np.random.Generator) -> float:
    """Return by how much the gradient along a direction differs from central differences."""
    xp = on.xp
    upstream, along = (xp.asarray(rng.standard_normal(len(scores))) for _ in range(2))

    def value(s: Any) -> float:
        y = on.back(cs.segment_softmax(on.given(s), on.given(offsets)))
        return float((y * upstream).sum())

    y = cs.segment_softmax(on.given(scores), on.given(offsets))
    gradient = on.back(cs.segment_softmax_vjp(y, on.given(upstream), on.given(offsets)))
    step = 1e-5
    difference = (value(scores + step * along) - value(scores - step * along)) / (2 * step)
    return abs(float((gradient * along).sum()) - difference)


def picture(graph: Any, edges: tuple[Array, Array, Array], weights: Array) -> Any:
    """Draw the club, edges as wide as the larger of the two weights between friends."""
    figure, axis = plt.subplots(figsize=(7.5, 6), layout="constrained")
    found = {(i, j): w for i, j, w in zip(*edges[:2], weights, strict=True)}
    both = [max(found[edge], found[edge[::-1]]) for edge in graph.edges]
    place = nx.spring_layout(graph, seed=4)
    club = ["tab:blue" if graph.nodes[n]["club"] == "Mr. Hi" else "tab:orange" for n in graph]
    nx.draw_networkx_nodes(graph, place, node_color=club, node_size=220, ax=axis)
    nx.draw_networkx_labels(graph, place, font_size=8, font_color="white", ax=axis)
    nx.draw_networkx_edges(graph, place, width=[6 * w for w in both], alpha=0.6, ax=axis)
    axis.set_title("attention between friends (colour: the club's two sides after it broke up)")
    axis.axis("off")
    return figure


def main(argv: list[str] | None = None) -> tuple[float, float]:
    """Run and draw; return how far sums are from 1, and the gradient from differences."""
    given = options(__doc__, "graph_attention.png").parse_args(argv)
    graph = nx.karate_club_graph()
    edges, rng = edges_of(graph), np.random.default_rng(3)
    shapes = ((len(graph), FEATURES), (FEATURES, FEATURES), (2, FEATURES))
    with where() as on:
        xp = on.xp
        features, weight, attention = (xp.asarray(rng.standard_normal(s) / 2) for s in shapes)
        on_device = tuple(xp.asarray(part) for part in edges)
        new, weights, scores = layer(on, features, weight, attention, on_device)
        sums = xp.bincount(on_device[0], weights)
        off = float(abs(sums - 1).max())
        wrong = check_gradient(on, scores, on_device[2], rng)
        weights = on.host(weights)
    lengths = np.diff(edges[2])
    print(
        f"{len(graph)} members of {lengths.min()} to {lengths.max()} edges, {len(weights)} in all"
    )
    print(f"new features: {new.shape[0]} x {new.shape[1]}; weights sum to 1 within {off:.1e}")
    print(f"gradient against central differences: {wrong:.1e}")
    save(picture(graph, edges, weights), given.picture)
    return off, wrong


if __name__ == "__main__":
    main()
