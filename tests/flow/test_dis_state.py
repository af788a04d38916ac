"""DIS is stateless: the flow of a pair does not depend on earlier calls."""

from __future__ import annotations

import numpy as np
import pytest

from maskvos.flow.dis import DIS


@pytest.mark.parametrize("size", [(36, 42), (40, 40), (32, 44), (96, 160)])
@pytest.mark.parametrize("changes", [{}, {"finest_scale": 0, "patch_stride": 5}], ids=["medium", "finer"])
def test_flow_of_a_pair_does_not_depend_on_earlier_calls(size: tuple[int, int], changes: dict[str, int]) -> None:
    pairs = np.random.default_rng(0).integers(0, 255, (6, 2, 1, *size, 3), np.uint8)
    used = DIS(**changes)
    later = [used(*pair) for pair in pairs]
    for pair, flow in zip(pairs, later, strict=True):
        assert np.array_equal(DIS(**changes)(*pair), flow)
