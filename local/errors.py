"""Everything that `local` raises on purpose.

LocalError
├── NotInstalled        no tritonserver or no redis-server was found
├── NothingPublished    the model repository has no version to serve
├── PortTaken           another process listens there
└── StartFailed         one of the stack's processes ended, or did not get ready in time
"""


class LocalError(Exception):
    """Root of the tree; its message is printed as one line."""


class NotInstalled(LocalError):
    """No tritonserver or no redis-server was found."""


class NothingPublished(LocalError):
    """The model repository has no version to serve."""


class PortTaken(LocalError):
    """Another process listens on a port that the stack needs."""


class StartFailed(LocalError):
    """One of the stack's processes ended, or did not get ready in time."""
