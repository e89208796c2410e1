"""Everything that `export` raises on purpose.

ExportError
├── ParityError         the exported graph does not compute what the checkpoint computes
└── RegistryError       a version does not exist, or the repository is not one
"""


class ExportError(Exception):
    """Root of the tree; its message is printed as one line."""


class ParityError(ExportError):
    """The exported graph does not compute what the checkpoint computes."""


class RegistryError(ExportError):
    """A version does not exist, or the repository is not one."""
