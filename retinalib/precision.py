"""Whether half the digits save time here."""

from __future__ import annotations

import warnings

import torch


def native_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 by itself: a GPU from Ampere on; avx512_bf16, AMX or ARM's bf16 in a processor.

    Others compute it in software. Where torch can't tell (2.9 can't) a processor passes for one that does.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return True
    has = torch.cpu.get_capabilities()
    return any(has.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def warn_of_slow_bfloat16(device: torch.device) -> None:
    """UserWarning where bfloat16 is computed in software."""
    if not native_bfloat16(device):
        warnings.warn(
            f"this {device.type} has no bfloat16 and computes it in software, many times slower than float32: use float32 here",
            stacklevel=3,
        )
