"""What `demo` raises on purpose, beside what it calls in `export` and `reward`.

DemoError
├── ReportError   the report is missing, or of another model than the shipped one
└── RunRefused    a training cannot begin, or go on, in that folder
"""


class DemoError(Exception):
    """Root of the tree; its message is printed as one line."""


class ReportError(DemoError):
    """The report is missing, or of another model than the shipped one."""


class RunRefused(DemoError):
    """A training cannot begin, or go on, in the folder that was named."""
