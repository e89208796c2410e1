"""Why a request is not scored, apart from its images, Triton and the GPU.

ScoringError
├── PromptInvalid   not Unicode text, or too long
├── UnknownVersion  the version that is asked for is not served
└── Overloaded      too much is being received, or waits for admission
"""

from __future__ import annotations

from frontend.errors import ServiceError


class ScoringError(ServiceError):
    """Root of the tree."""


class PromptInvalid(ScoringError):
    """The prompt cannot be tokenised."""


class UnknownVersion(ScoringError):
    """The version that is asked for is not served."""


class Overloaded(ScoringError):
    """Too much is being received, or waits for admission."""
