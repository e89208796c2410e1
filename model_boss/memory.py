"""What NVIDIA's driver says about a GPU's memory, where there is one."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Protocol

_LOG: Final = logging.getLogger("model_boss")
_MIB: Final = 1 << 20


@dataclass(frozen=True)
class DeviceMemory:
    """One reading, in MiB; `used_mb` is what everybody uses, the driver included."""

    total_mb: int
    used_mb: int


class Meter(Protocol):
    """Anything that can measure a GPU by the ledger's name for it."""

    def read(self, gpu: str) -> DeviceMemory | None:
        """Measure it; return `None` if it cannot be seen from here."""


class Nvml:
    """NVML as a meter; a GPU is named by its UUID (`GPU-...`, `MIG-...`) or by `host:index`.

    `index` counts as NVML does, in the order of the PCI bus, whatever CUDA_VISIBLE_DEVICES says.
    """

    def __init__(self, nvml: Any = None) -> None:  # noqa: ANN401 - the module `pynvml` is not typed
        """Take another module in place of `pynvml`, for tests."""
        self._nvml = nvml

    def read(self, gpu: str) -> DeviceMemory | None:
        if not self._is_there:
            return None
        nvml = self._nvml
        try:
            handle = self._handle(gpu)
            if handle is None:
                return None
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        except nvml.NVMLError as error:
            _LOG.warning("gpu %s cannot be measured: %s", gpu, error)
            return None
        # This rounds to our disadvantage: less in all, more in use.
        return DeviceMemory(memory.total // _MIB, -(-(memory.total - memory.free) // _MIB))

    @cached_property
    def _is_there(self) -> bool:
        try:
            if self._nvml is None:
                import pynvml  # noqa: PLC0415 - not every service that joins brings it

                self._nvml = pynvml
            self._nvml.nvmlInit()
        except ImportError:
            return False
        except self._nvml.NVMLError as error:
            _LOG.info("no GPU to measure: %s", error)
            return False
        return True

    def _handle(self, gpu: str) -> Any:  # noqa: ANN401
        if gpu.startswith(("GPU-", "MIG-")):
            return self._nvml.nvmlDeviceGetHandleByUUID(gpu)
        _, _, index = gpu.rpartition(":")
        return self._nvml.nvmlDeviceGetHandleByIndex(int(index)) if index.isdecimal() else None
