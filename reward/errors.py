"""Everything that `reward` raises on purpose.

RewardError
├── InvalidInput            the caller's data; Triton answers INVALID_ARG, REST a 4xx
│   ├── InvalidImage
│   │   ├── ImageTooLarge   refused from the header, before a pixel was decoded
│   │   └── UndecodableImage
│   ├── InvalidPrompt
│   └── InvalidTensor       a tensor that does not keep the contract
├── CheckpointError         weights that are not what they should be
└── VersionError            a published version is missing, damaged or made for something else

The message of an `InvalidInput` is meant for the caller who sent it.
"""


class RewardError(Exception):
    """Root of the tree."""


class InvalidInput(RewardError):
    """The caller's data cannot be scored."""


class InvalidImage(InvalidInput):
    """The image cannot be scored."""


class ImageTooLarge(InvalidImage):
    """The header announces more pixels than allowed."""


class UndecodableImage(InvalidImage):
    """The bytes are no image or a damaged one."""


class InvalidPrompt(InvalidInput):
    """The prompt is not text."""


class InvalidTensor(InvalidInput):
    """A tensor does not keep the contract."""


class CheckpointError(RewardError):
    """A checkpoint is missing, damaged or of another network."""


class VersionError(RewardError):
    """A published version is missing, damaged or made for another preprocessing."""
