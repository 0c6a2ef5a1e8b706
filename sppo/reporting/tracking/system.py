"""What a stage asks of its machine, under the names of MLflow's system metrics.

MLflow's own monitor asks its server about the run at every sample and ends for good at the first failure, while here no
figure may depend on a server that is up. So the samples are taken here and kept in the stage's record.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any

Sample = dict[str, float]

INTERVAL = 2.0
"""Seconds between the first samples."""
MOST = 360
"""Samples; when so many are there, every two become one, and they are taken half as often from then on."""


@contextmanager
def sampled(interval: float = INTERVAL, most: int = MOST) -> Iterator[list[Sample]]:
    """Sample the machine until the block ends.

    Args:
        interval: seconds between the first samples.
        most: an even number that the samples never reach.

    Yields:
        The samples so far, each with its `time` in ms since 1970: of the whole machine, not of this process alone.
    """
    samples: list[Sample] = []
    ended = threading.Event()

    def watch() -> None:
        import psutil

        gpus, pause = _gpus(), interval
        psutil.cpu_percent()  # which from now on tells the load since the call before
        while not ended.wait(pause):
            samples.append(_machine() | _load(gpus))
            if len(samples) >= most:
                samples[:] = [_mean(*two) for two in zip(samples[::2], samples[1::2], strict=True)]
                pause *= 2

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def _machine() -> Sample:
    import psutil

    memory = psutil.virtual_memory()
    return {
        "time": float(int(time.time() * 1000)),
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": round(memory.used / 1e6, 1),
        "system_memory_usage_percentage": round(100 * memory.used / memory.total, 1),
    }


def _gpus() -> list[Any]:
    """Handles of NVIDIA's GPUs; none where there is no driver."""
    if find_spec("pynvml") is None:
        return []
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]


def _load(gpus: Sequence[Any]) -> Sample:
    found: Sample = {}
    for index, gpu in enumerate(gpus):
        import pynvml

        for name, ask in _QUESTIONS.items():
            with suppress(pynvml.NVMLError):  # a part of a GPU (MIG) does not know its load
                found[f"gpu_{index}_{name}"] = ask(pynvml, gpu)
    return found


_QUESTIONS: dict[str, Callable[[Any, Any], float]] = {
    "utilization_percentage": lambda nvml, gpu: float(nvml.nvmlDeviceGetUtilizationRates(gpu).gpu),
    "memory_usage_megabytes": lambda nvml, gpu: round(nvml.nvmlDeviceGetMemoryInfo(gpu).used / 1e6, 1),
    "power_usage_watts": lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
}


def _mean(first: Sample, second: Sample) -> Sample:
    return {name: (value + second[name]) / 2 for name, value in first.items() if name in second}
