"""Every error a user can cause, each with the exit code the command line gives it.

A message says where, what and the way out: `block.07.down: weight is (4, 8), plan says (8, 4); plan again`.
Wrong use of the Python API stays TypeError or ValueError.
"""

from __future__ import annotations

from collections.abc import Sequence


class FoldrankError(Exception):
    """Base of all: `where: what; what to do`. Subclasses only choose the exit code."""

    exit_code = 70

    def __init__(self, where: object, what: str, remedy: str = "") -> None:
        self.where, self.what, self.remedy = str(where), what, remedy
        super().__init__(f"{where}: {what}" + (f"; {remedy}" if remedy else ""))


class SourceError(FoldrankError):
    """A checkpoint, text or output folder cannot be used as given."""

    exit_code = 3


class CheckpointRefused(SourceError):
    """A checkpoint can be read and is refused: it is hostile, or says of itself what is not so."""

    exit_code = 4


class ExportError(FoldrankError):
    """An exporter failed; carries its reason."""

    exit_code = 3


class NotWritable(ExportError):
    """An exporter does not write this model, or not as it is; another one may."""


class ProviderUnavailable(FoldrankError):
    """An execution provider, or the library behind it, does not start on this machine."""

    exit_code = 3


class BundleError(FoldrankError):
    """A folder is no bundle, or its files differ from its manifest."""

    exit_code = 4


class UnsafeModel(FoldrankError):
    """An ONNX file or its external data breaks a rule of safe loading."""

    exit_code = 4


class PlanFormatError(FoldrankError):
    """A plan folder does not hold what the schema says."""

    exit_code = 4


class PlanMismatch(FoldrankError):
    """A plan was made for other weights than these."""

    exit_code = 4


class GraphNotRecognized(FoldrankError):
    """No decoder was found in an ONNX graph."""

    exit_code = 4


class PassRefused(FoldrankError):
    """A pass found reasons not to edit, all of them listed, and left the graph as it was."""

    exit_code = 4

    def __init__(self, where: object, reasons: Sequence[str], remedy: str = "") -> None:
        self.reasons = tuple(reasons)
        super().__init__(where, " | ".join(self.reasons), remedy)


class ValidationFailed(FoldrankError):
    """A gate, or the graph proof, failed."""

    exit_code = 1


class InvariantBroken(FoldrankError):
    """A pass left a graph that breaks a law: our bug. Names a reproducer where one was written."""

    exit_code = 70
