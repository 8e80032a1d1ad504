"""The checks are worth their time only if they see what is wrong: each break is caught."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.mutations import MUTATIONS, Mutation, caught_by, every_probe
from tests.probes import Probe, finding, plan_kind


@pytest.mark.parametrize("probe", every_probe(), ids=lambda p: f"{p.kind}-{p.op}-{p.rows}")
def test_probes_find_nothing_wrong_with_the_kernels(probe: Probe) -> None:
    for each in filter(None, (probe, probe.twin)):
        assert plan_kind(each) == each.kind
    assert finding(probe) is None


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_break_is_caught(
    mutation: Mutation, record_property: Callable[[str, object], None]
) -> None:
    check = caught_by(mutation)
    record_property("caught by", check)
    assert check in mutation.by
