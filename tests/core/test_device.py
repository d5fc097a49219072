"""The devices that are supported, and one line for each that is not."""

from __future__ import annotations

import logging

import pytest
import torch

from pipeline.core.errors import UsageError
from pipeline.core.progress import narration
from pipeline.core.resources import pick_device


def test_a_command_names_its_device_once(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with narration():
            pick_device()
            logging.getLogger("pipeline").info("twice")
            pick_device()
            logging.getLogger("pipeline").info("twice")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("=")[0] for line in lines] == ["device", "twice", "twice"] * 2


def test_a_cpu_is_taken_where_there_is_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device() == pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["mps", "mps:0", "meta", "xpu"])
def test_other_devices_of_torch_are_refused_before_anything_is_computed_on_them(name: str) -> None:
    with pytest.raises(UsageError) as refused:
        pick_device(name)
    assert str(refused.value) == (
        f"--device {name}: {name.partition(':')[0]} is not supported, only CPUs and CUDA are; expected auto, cpu, cuda "
        "or cuda:1. Leave it out."
    )


def test_what_is_no_device_is_refused() -> None:
    with pytest.raises(UsageError, match="--device gpu: no such device; expected auto, cpu, cuda or cuda:1"):
        pick_device("gpu")
