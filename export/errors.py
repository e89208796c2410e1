"""Everything that `export` raises on purpose.

ExportError
├── AnnotationError     human rankings that are not in ImageRewardDB's format
├── Busy                another command is changing what is served
├── CannotWrite         the disk is full, or the folder is not ours to write
├── ChoiceError         the model that was asked for cannot be served
├── FetchError          a file could not be downloaded
│   ├── HubUnreachable  nobody there to ask, or offline mode
│   └── WrongFile       the file is there, but by its digest it is another one
├── GateError           what was exported is too far from the fp32 network to be published
├── QuestionsError      `--gate-set` or `--calibration` is not in the form that is read
├── NoSecondShare       a shared GPU has no memory for two versions, or nobody can say so
├── RegistryError       a version does not exist, or the repository is not one
│   └── Refused         a version that must not be served
├── ScoresDiffer        a published version does not give the published scores
├── ToolsMissing        torch or another tool of the export is not installed
├── TritonFailed        the running Triton did not do what it was told
│   └── TritonGone      nobody listens there
├── Undone              a change failed on its way, and what was served before is served again
└── UnusableImage       an image file is missing or cannot be scored
"""


class ExportError(Exception):
    """Root of the tree; its message is printed as one line."""


class AnnotationError(ExportError):
    """Human rankings that are not in ImageRewardDB's format."""


class Busy(ExportError):
    """Another command is changing what is served."""


class CannotWrite(ExportError):
    """The disk is full, or the folder is not ours to write."""


class ChoiceError(ExportError):
    """The model that was asked for cannot be served."""


class FetchError(ExportError):
    """A file could not be downloaded."""


class HubUnreachable(FetchError):
    """The hub cannot be asked: no way there, no sensible answer, or offline mode."""


class WrongFile(FetchError):
    """The file is another one, by its digest."""


class GateError(ExportError):
    """What was exported is too far from the fp32 network to be published."""


class QuestionsError(ExportError):
    """A directory of questions is not in the form that is read."""


class NoSecondShare(ExportError):
    """No memory for two versions is there, or nobody can say whether it is; nothing has changed."""


class RegistryError(ExportError):
    """A version does not exist, or the repository is not one."""


class Refused(RegistryError):
    """A version is damaged, made for another preprocessing, below its gates, or does not score."""


class ScoresDiffer(ExportError):
    """A published version does not give the published scores."""


class ToolsMissing(ExportError):
    """Torch or another tool of the export is not installed; the extra `export` has them."""


class TritonFailed(ExportError):
    """The running Triton did not do what it was told."""


class TritonGone(TritonFailed):
    """Nobody listens at Triton's address, or it ended while it was asked."""


class Undone(ExportError):
    """A change failed on its way, and what was served before is served again."""


class UnusableImage(ExportError):
    """An image file is missing or cannot be scored."""
