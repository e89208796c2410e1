"""Everything that `export` raises on purpose.

ExportError
├── AnnotationError     human rankings that are not in ImageRewardDB's format
├── ChoiceError         what was asked to be served cannot be
├── FetchError          a file could not be downloaded
│   ├── HubUnreachable  nobody there to ask, or offline mode
│   └── WrongFile       there it is, but by its digest it is another one
├── GateError           what was exported is too far from the fp32 network to be published
├── QuestionsError      `--gate-set` or `--calibration` is not in the form that is read
├── RegistryError       a version does not exist, or the repository is not one
├── ScoresDiffer        a published version does not give the published scores
├── ToolsMissing        torch or another tool of the export is not installed
└── UnusableImage       an image file is missing or cannot be scored
"""


class ExportError(Exception):
    """Root of the tree; its message is printed as one line."""


class AnnotationError(ExportError):
    """Human rankings that are not in ImageRewardDB's format."""


class ChoiceError(ExportError):
    """What was asked to be served cannot be."""


class FetchError(ExportError):
    """A file could not be downloaded."""


class HubUnreachable(FetchError):
    """The hub cannot be asked: no way there, no sensible answer, or offline mode."""


class WrongFile(FetchError):
    """By its digest, the file is another one."""


class GateError(ExportError):
    """What was exported is too far from the fp32 network to be published."""


class QuestionsError(ExportError):
    """A directory of questions is not in the form that is read."""


class RegistryError(ExportError):
    """A version does not exist, or the repository is not one."""


class ScoresDiffer(ExportError):
    """A published version does not give the published scores."""


class ToolsMissing(ExportError):
    """Torch or another tool of the export is not installed; with the extra `export` it would be."""


class UnusableImage(ExportError):
    """An image file is missing or cannot be scored."""
