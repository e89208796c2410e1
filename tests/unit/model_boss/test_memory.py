"""NVML as a meter, with and without a GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from model_boss import DeviceMemory, Nvml

MIB = 1 << 20


class NvmlError(Exception):
    """A stand-in for `pynvml.NVMLError`."""


@dataclass
class Memory:
    total: int
    free: int


@dataclass
class FakeNvml:
    """A driver with the GPUs that it is given, by index; their UUIDs are GPU-0, GPU-1, ..."""

    gpus: list[Memory]
    has_driver: bool = True
    started: int = 0
    asked: list[str] = field(default_factory=list)
    NVMLError: type[Exception] = NvmlError

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's names
        self.started += 1
        if not self.has_driver:
            raise NvmlError("Driver Not Loaded")

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        if index >= len(self.gpus):
            raise NvmlError("Invalid Argument")
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802
        self.asked.append(uuid)
        return self.nvmlDeviceGetHandleByIndex(int(uuid[-1]))

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Memory:  # noqa: N802
        return self.gpus[handle]


def driver(**more: Any) -> FakeNvml:
    return FakeNvml([Memory(16 * MIB, 16 * MIB), Memory(24 * MIB + 5, 14 * MIB + 4)], **more)


@pytest.mark.parametrize("gpu", ["GPU-1", "host:1", "a:b:1", "1"])
def test_a_gpu_is_found_by_uuid_or_by_its_index(gpu: str) -> None:
    """The ledger's name for a GPU is a UUID, or ends with NVML's index of it."""
    assert Nvml(driver()).read(gpu) == DeviceMemory(total_mb=24, used_mb=11)


def test_a_reading_is_rounded_against_us() -> None:
    """Part of a MiB counts as 0 in the total, and as 1 in the used memory."""
    memory = FakeNvml([Memory(total=10 * MIB - 1, free=10 * MIB - 2)])
    assert Nvml(memory).read("host:0") == DeviceMemory(total_mb=9, used_mb=1)


@pytest.mark.parametrize("gpu", ["host:7", "GPU-9", "elsewhere", "host:x", ""])
def test_a_gpu_that_is_not_here_is_not_measured(gpu: str) -> None:
    """The name of another machine's GPU is no error; somebody on that machine measures it."""
    assert Nvml(driver()).read(gpu) is None


def test_a_machine_without_a_driver_measures_nothing_and_asks_once() -> None:
    """Without a driver the service runs, and does not look for one at every heartbeat."""
    fake = driver(has_driver=False)
    meter = Nvml(fake)
    assert meter.read("host:0") is None
    assert meter.read("host:0") is None
    assert fake.started == 1


def test_the_real_library_is_asked_and_never_raises() -> None:
    """With `nvidia-ml-py`, a machine answers with or without a GPU."""
    memory = Nvml().read("host:0")
    assert memory is None or 0 <= memory.used_mb <= memory.total_mb
