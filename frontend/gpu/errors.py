"""Why a shared GPU does not have the model.

GpuError
├── GpuUnavailable   no memory was granted, or nothing loaded, within the wait
└── ResidencyFailed  a defect of ours
"""

from __future__ import annotations

from frontend.errors import ServiceError


class GpuError(ServiceError):
    """Root of the tree."""


class GpuUnavailable(GpuError):
    """No GPU lease was granted within the wait."""


class ResidencyFailed(GpuError):
    """The task that drives the model ended unexpectedly."""
