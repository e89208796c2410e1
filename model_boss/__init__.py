"""model-boss: services that share GPUs ask a ledger in Redis before they load a model.

Read `claim` first, then `ledger` (one method for each script) and `lease` (what a holder uses). The
protocol itself is in `scripts/`, for every other language too; `docs/model-boss.md` explains it.
"""

from model_boss.claim import (
    Answer,
    Capacity,
    Claim,
    Granted,
    Held,
    Phase,
    Priority,
    Renewal,
    Waiting,
    WaitReason,
)
from model_boss.clock import Term
from model_boss.errors import (
    CapacityUnknown,
    ClaimConflict,
    ClaimRefused,
    ClaimTooLarge,
    InvalidClaim,
    InvalidUrl,
    LeaseLost,
    LedgerUnavailable,
    ModelBossError,
    NotGranted,
    TtlMismatch,
)
from model_boss.gauge import Gauge
from model_boss.lease import Ending, Lease
from model_boss.ledger import Ledger
from model_boss.memory import DeviceMemory, Meter, Nvml
from model_boss.options import LeaseOptions, LedgerOptions, OnOutage
from model_boss.table import Row, Table, render

__all__ = [
    "Answer",
    "Capacity",
    "CapacityUnknown",
    "Claim",
    "ClaimConflict",
    "ClaimRefused",
    "ClaimTooLarge",
    "DeviceMemory",
    "Ending",
    "Gauge",
    "Granted",
    "Held",
    "InvalidClaim",
    "InvalidUrl",
    "Lease",
    "LeaseLost",
    "LeaseOptions",
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
    "Renewal",
    "Row",
    "Table",
    "Term",
    "TtlMismatch",
    "WaitReason",
    "Waiting",
    "render",
]
