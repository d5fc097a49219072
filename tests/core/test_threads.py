"""The thread count is chosen by measuring, and one bad moment does not decide."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
import torch

from pipeline.core import resources as threads
from pipeline.core.resources import MeasuredThreads, choose_threads, threads_restored


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(threads, "_SECONDS", 0.01)
    monkeypatch.setattr(threads, "cores", lambda: 2)
    with threads_restored():
        yield


@pytest.mark.parametrize("fastest", [1, 2])
def test_the_faster_count_is_chosen_set_and_said(fastest: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert choose_threads(lambda: time.sleep(0.001 if torch.get_num_threads() == fastest else 0.003)) == fastest
    assert torch.get_num_threads() == fastest
    message = capsys.readouterr().err
    assert re.search(rf"using {fastest} CPU threads? \([\d.]+ ms a step; [\d.]+ ms with {3 - fastest}\)", message)


def test_a_moments_disturbance_does_not_decide() -> None:
    calls = 0

    def step() -> None:
        nonlocal calls
        calls += 1
        faster = torch.get_num_threads() == 2
        time.sleep(0.03 if faster and calls < 12 else 0.001 if faster else 0.002)

    assert choose_threads(step) == 2


def test_on_one_core_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 1)
    assert choose_threads(lambda: pytest.fail("measured")) == 1


def test_a_count_is_measured_again_when_it_is_twenty_measurements_old(monkeypatch: pytest.MonkeyPatch) -> None:
    now, found = [100.0], iter([2, 1])

    def measure(step: object) -> int:
        now[0] += 0.5
        return next(found)

    monkeypatch.setattr(threads, "choose_threads", measure)
    monkeypatch.setattr(threads.time, "perf_counter", lambda: now[0])
    measured = MeasuredThreads(lambda: lambda: None)
    assert measured.now() == 2
    now[0] += 9.9
    assert measured.now() == 2
    now[0] += 0.2
    assert measured.now() == torch.get_num_threads() == 1


def test_steps_of_seconds_are_measured_in_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    now, steps = [0.0], [0]

    def step() -> None:
        now[0] += 3.0
        steps[0] += 1

    monkeypatch.setattr(threads.time, "perf_counter", lambda: now[0])
    choose_threads(step)
    assert steps[0] == 4  # two of each count
