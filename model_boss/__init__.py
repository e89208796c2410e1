"""model-boss: services that share GPUs ask a ledger in Redis before they load a model.

Read `claim` first, then `ledger` (one method for each script), `tenure` (what a process may rely
on, and for how long) and `lease` (what a holder uses). The protocol itself is in `scripts/`, for
any language; `docs/model-boss.md` explains it.
"""

from model_boss.claim import (
    Capacity,
    Claim,
    GpuLedger,
    Granted,
    Held,
    Phase,
    Priority,
    Waiting,
    WaitReason,
)
from model_boss.environment import SharedGpu
from model_boss.errors import (
    ClaimRefused,
    InvalidClaim,
    InvalidUrl,
    LeaseLost,
    LedgerUnavailable,
    ModelBossError,
    NotGranted,
)
from model_boss.lease import Ending, Lease
from model_boss.ledger import Ledger
from model_boss.memory import DeviceMemory, Meter, Nvml
from model_boss.options import LedgerOptions, OnOutage
from model_boss.protocol import first_gpu
from model_boss.table import Row, Table
from model_boss.tenure import Standing, Tenure

__all__ = [
    "Capacity",
    "Claim",
    "ClaimRefused",
    "DeviceMemory",
    "Ending",
    "GpuLedger",
    "Granted",
    "Held",
    "InvalidClaim",
    "InvalidUrl",
    "Lease",
    "LeaseLost",
    "Ledger",
    "LedgerOptions",
    "LedgerUnavailable",
    "Meter",
    "ModelBossError",
    "NotGranted",
    "Nvml",
    "OnOutage",
    "Phase",
    "Priority",
    "Row",
    "SharedGpu",
    "Standing",
    "Table",
    "Tenure",
    "WaitReason",
    "Waiting",
    "first_gpu",
]
