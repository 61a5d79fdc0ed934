"""Every exception bertpress raises on purpose. Knows no HTTP: `app.main` holds the status table.

BertpressError
├── RequestError                 the caller sent something that cannot be answered
│   ├── InvalidRequestError      malformed, of a wrong type, empty
│   ├── LimitExceededError       more than a setting allows; carries the limit
│   │   └── TooManyHeadersError  in the head of a request, which is another status in HTTP
│   ├── UnsupportedInputError    well formed, but not what the models here read (text pairs)
│   ├── UnknownModelError        no such model or version
│   └── DeadlineExceededError    the answer would come, or came, too late
├── BusyError                    no room for more work now; carries when to come back
├── ClosingError                 the service is shutting down
├── NotLoadedError               the version exists and is not loaded
├── NotReadyError                the default model is not serving yet
├── ConflictError                an operation the present state forbids (unload of a default)
├── AuthenticationError          no credentials, or wrong ones
├── AdminDisabledError           no admin token is set
├── ArtifactError                a version folder that cannot be trusted
│   ├── ManifestError            manifest.json missing, unreadable or of another schema
│   ├── ChecksumError            a file is not the one that was published
│   ├── NoUsableBuildError       no build runs on this CPU and install
│   └── ProbeError               the build does not reproduce its published logits here
├── EngineError                  a runtime failed to load or to run a build
├── SettingsError                a setting that is unknown or out of range
└── CompressionError             the offline suite could not go on
    ├── DataError                a data file that cannot be used: says file, row, expectation
    ├── RecipeError              a recipe that makes no sense
    ├── UnsupportedModelError    a teacher of a family that cannot be compressed
    ├── TrainingError            training could not start or diverged
    ├── TrackingError            an experiment tracker that cannot be used
    ├── DiskFullError            no room left to write; nothing finished is lost
    ├── SearchError              goals, space or target CPU of a search that make no sense
    └── ParityError              the artifact does not answer as the model it came from
"""

from __future__ import annotations

import re


class BertpressError(Exception):
    """Base of every error raised on purpose; the message says what, which value, which limit, what to do."""

    @property
    def code(self) -> str:
        """The class's name for programs: DeadlineExceededError is `deadline_exceeded`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__.removesuffix("Error")).lower()


class RequestError(BertpressError):
    """The caller sent something that cannot be answered."""


class InvalidRequestError(RequestError):
    """The request is malformed, of a wrong type, or empty."""


class LimitExceededError(RequestError):
    """The request asks for more than a setting allows."""

    def __init__(self, message: str, *, limit: int) -> None:
        super().__init__(message)
        self.limit = limit


class UnsupportedInputError(RequestError):
    """The request is well formed and asks for what no model here can do."""


class TooManyHeadersError(LimitExceededError):
    """The request has more headers than a setting allows."""


class UnknownModelError(RequestError):
    """No such model or version in the repository."""


class DeadlineExceededError(RequestError):
    """The request expired before its answer was ready."""


class BusyError(BertpressError):
    """No room for more work now."""

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class ClosingError(BertpressError):
    """The service is shutting down and admits nothing new."""


class NotLoadedError(BertpressError):
    """The version is in the repository but not loaded."""


class NotReadyError(BertpressError):
    """The default model is not serving yet."""


class ConflictError(BertpressError):
    """The present state forbids the operation."""


class AuthenticationError(BertpressError):
    """Credentials are missing or wrong."""


class AdminDisabledError(BertpressError):
    """The admin interface is closed because no token is set."""


class ArtifactError(BertpressError):
    """A version folder cannot be trusted."""


class ManifestError(ArtifactError):
    """manifest.json is missing, unreadable or of another schema."""


class ChecksumError(ArtifactError):
    """A file is not the one that was published."""


class NoUsableBuildError(ArtifactError):
    """No build of the version runs on this CPU and install."""


class ProbeError(ArtifactError):
    """The build does not reproduce its published logits on this machine."""


class EngineError(BertpressError):
    """A runtime failed to load or to run a build."""


class SettingsError(BertpressError):
    """A setting is unknown or out of range."""


class CompressionError(BertpressError):
    """The offline suite could not go on."""


class DataError(CompressionError):
    """A data file cannot be used; the message says which file, which row, and what was expected."""


class RecipeError(CompressionError):
    """A recipe is unreadable or makes no sense."""


class UnsupportedModelError(CompressionError):
    """The teacher is of a family that cannot be compressed."""


class TrainingError(CompressionError):
    """Training could not start, or diverged."""


class TrackingError(CompressionError):
    """An experiment tracker is unknown, not installed, or nobody is logged in to it."""


class DiskFullError(CompressionError):
    """There is no room left to write; nothing that was finished is lost."""


class SearchError(CompressionError):
    """The goals, the space or the target CPU of a search make no sense."""


class ParityError(CompressionError):
    """The artifact does not answer as the model it came from."""
