"""The type that a model computes in, and which one this machine's processor is good at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

PROCESSOR = Path("/proc/cpuinfo")
NATIVE = {"avx512_bf16", "amx_bf16", "bf16"}
"""What Linux calls instructions that multiply bfloat16: on x86 the first two (`arch/x86/include/asm/cpufeatures.h`), on
ARM the last (`Documentation/arch/arm64/elf_hwcaps.rst`). Without them PyTorch multiplies float32 several times faster.
"""
INTEL, AMX = "GenuineIntel", "amx_bf16"
"""Of Intel's instructions for bfloat16 AMX alone, which a virtual machine may hide, is faster than float32: with
avx512_bf16 a step of training takes twice as long (docs/training.md). AMD's were not compared.
"""


def has_bfloat16(processor: Path) -> bool:
    """Whether a processor has instructions that multiply bfloat16.

    Args:
        processor: Linux' description of it; where there is none, nothing is known of it.
    """
    return not NATIVE.isdisjoint(_words(processor))


def faster(processor: Path) -> Literal["bfloat16", "float32"]:
    """The type in which a processor multiplies faster; see `has_bfloat16`."""
    words = _words(processor)
    needed = {AMX} if INTEL in words else NATIVE
    return "float32" if needed.isdisjoint(words) else "bfloat16"


def _words(processor: Path) -> set[str]:
    return set(processor.read_text(encoding="utf-8").split()) if processor.exists() else set()


def _settled(value: Any) -> Any:
    return faster(PROCESSOR) if value == "auto" else value


Arithmetic = Annotated[Literal["bfloat16", "float32"], BeforeValidator(_settled)]
"""A type of numbers; `auto` is the one in which this processor multiplies faster, and is settled when it is read."""

AUTO = "`auto` is the one that this processor multiplies faster."
"""What a value's description says of it."""
