"""Who has bfloat16, and who is told."""

import warnings
from types import MappingProxyType

import pytest
import torch

from retinalib.detect import Detector
from retinalib.model import RetinaFace
from retinalib.precision import native_bfloat16, warn_of_slow_bfloat16

CPU = torch.device("cpu")


def pretend(monkeypatch, **capabilities):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: MappingProxyType(capabilities), raising=False)


@pytest.mark.parametrize(
    ("capabilities", "native"),
    [
        ({"avx512_f": True, "avx512_bf16": True}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({}, False),
    ],
)
def test_a_processor_is_asked(monkeypatch, capabilities, native):
    pretend(monkeypatch, **capabilities)
    assert native_bfloat16(CPU) == native
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        warn_of_slow_bfloat16(CPU)
    assert len(heard) == (not native)


def test_an_older_torch_can_not_ask(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert native_bfloat16(CPU)


def test_the_detector_says_so_only_when_asked_for_bfloat16(monkeypatch):
    pretend(monkeypatch)
    Detector(RetinaFace(), "cpu")  # a warning would be an error
    with pytest.warns(UserWarning, match="no bfloat16 and computes it in software"):
        Detector(RetinaFace(), "cpu", bfloat16=True)
