"""Everything that `model_boss` raises on purpose.

ModelBossError
├── InvalidClaim            a claim, a name or a setting that makes no sense
├── InvalidUrl              a Redis URL of a kind that is not supported
├── LedgerUnavailable       Redis cannot be reached, refuses, or did not answer in time
├── ClaimRefused            the ledger answers, and will never grant this claim
├── NotGranted              the wait ended before the claim was granted
└── LeaseLost               the lease is no longer this holder's
"""


class ModelBossError(Exception):
    """Root of the tree."""


class InvalidClaim(ModelBossError):
    """A claim, a name or a setting makes no sense."""


class InvalidUrl(ModelBossError):
    """The Redis URL is of a kind that is not supported."""


class LedgerUnavailable(ModelBossError):
    """Redis cannot be reached, refuses, or did not answer in time."""


class ClaimRefused(ModelBossError):
    """The ledger will not grant this claim, however long it waits."""


class NotGranted(ModelBossError):
    """The wait ended before the claim was granted."""


class LeaseLost(ModelBossError):
    """The lease is no longer this holder's."""
