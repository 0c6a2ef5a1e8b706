"""What a process computes with: its graphics processors, or its processor's name and cores."""

from __future__ import annotations

import os
import platform
import sys
from collections import Counter
from pathlib import Path

PROCESSOR = Path("/proc/cpuinfo")


def machine() -> str:
    """The graphics processors that this process has used, or else its cores: "8 NVIDIA H100", "2 cores of AMD EPYC"."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        names = Counter(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return ", ".join(f"{count} {name}" for name, count in names.items())
    cores = len(os.sched_getaffinity(0))
    return f"{cores} core{'s' * (cores > 1)} of {processor()}"


def processor() -> str:
    """The processor's name as Linux tells it; on ARM, where it tells none, the architecture's."""
    lines = PROCESSOR.read_text(encoding="utf-8").splitlines() if PROCESSOR.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
