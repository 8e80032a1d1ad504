"""Each example, at a small size: what it says is so, and its picture is there."""

from __future__ import annotations

import pathlib
from importlib.util import find_spec

import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"
LONGEST = 120  # lines


def needs(module: str) -> pytest.MarkDecorator:
    """Skip a test where a library is missing, before it is asked for its picture."""
    return pytest.mark.skipif(find_spec(module) is None, reason=f"needs {module}")


@pytest.fixture
def picture(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    """Return the file for a picture; after the test it must be one, and the example names it."""
    file = tmp_path / "picture.png"
    yield file
    assert file.read_bytes().startswith(b"\x89PNG")
    assert f"picture: {file}" in capsys.readouterr().out


@needs("sklearn")
def test_digits_are_learned(picture: pathlib.Path) -> None:
    from examples import digits

    assert digits.main(["--picture", str(picture), "--epochs", "3"]) > 0.95


@needs("sklearn")
def test_likelihood_of_the_mixture_never_falls(picture: pathlib.Path) -> None:
    from examples import mixture

    likelihoods, right = mixture.main(["--picture", str(picture), "--rounds", "25"])
    assert len(likelihoods) == 25 and likelihoods[-1] - likelihoods[0] > 100
    assert (np.diff(likelihoods) > -1e-9).all()
    assert right > 0.9


@needs("networkx")
def test_attention_of_a_graph_sums_to_one(picture: pathlib.Path) -> None:
    from examples import graph_attention

    off, wrong = graph_attention.main(["--picture", str(picture)])
    assert off < 1e-14 and wrong < 1e-9


@needs("torch")
def test_attention_is_that_of_pytorch(picture: pathlib.Path) -> None:
    from examples import attention

    outputs, gradients, losses = attention.main(["--picture", str(picture), "--steps", "12"])
    assert outputs < 2e-6 and gradients < 2e-6
    assert losses[-1] < 0.7 * losses[0]


def test_jacobian_is_that_of_the_derivation(picture: pathlib.Path) -> None:
    from examples import jacobian

    y, matrices = jacobian.main(["--picture", str(picture)])
    for row, matrix in zip(y, matrices, strict=True):
        np.testing.assert_allclose(matrix, np.diag(row) - np.outer(row, row), atol=1e-15)
    np.testing.assert_allclose(y[1], [0.1025, 0.7573, 0.1025, 0.0377], atol=5e-5)


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.stem)
def test_an_example_is_short(file: pathlib.Path) -> None:
    assert len(file.read_text().splitlines()) <= LONGEST
