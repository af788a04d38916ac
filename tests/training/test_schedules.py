"""Learning-rate schedules: start, end, formula, and steps beyond the planned total."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.optim.lr_scheduler import LRScheduler

from maskvos.training import schedules

STEPS = 40


def rates(schedule: Callable[..., LRScheduler], steps: int = STEPS) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = schedule(optimizer, steps)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


def test_constant() -> None:
    assert set(rates(schedules.constant)) == {2.0}


def test_poly_follows_its_formula() -> None:
    expected = [2.0 * (1 - step / STEPS) ** 0.9 for step in range(STEPS)]
    assert rates(schedules.poly) == pytest.approx(expected)


def test_cosine_warms_up_then_decays_to_the_floor() -> None:
    values = rates(partial(schedules.cosine_warmup, warmup=0.25, floor=0.1), STEPS)
    peak = STEPS // 4
    assert values[:peak] == pytest.approx([2.0 * (step + 1) / peak for step in range(peak)])
    assert all(a >= b for a, b in zip(values[peak:], values[peak + 1 :], strict=False))
    assert values[-1] == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("name", ["constant", "poly", "cosine_warmup"])
def test_more_steps_than_planned(name: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = getattr(schedules, name)(optimizer, 3)
    for _ in range(6):
        optimizer.step()
        scheduler.step()
    assert 0 <= optimizer.param_groups[0]["lr"] <= 2.0
