"""What can go wrong in training, by name."""

from app.core.errors import SignalboxError, UsageError


class NothingToTrain(UsageError):
    """The data hold no row that the recipe can use: publish a version that does, or choose another recipe."""


class NoStart(UsageError):
    """Training needs either a base model or the shape of a new one; name exactly one."""


class NothingToReplay(UsageError):
    """Replay was asked for, but the older data hold nothing to replay: allow withdrawn facts, or set the share to 0."""


class BadArchitecture(UsageError):
    """No model can be made of this configuration; the message says what is wrong with it."""


class CannotExpand(UsageError):
    """The base cannot be changed so; the message says which setting to leave out."""


class CannotAddTokens(UsageError):
    """The base's tokenizer cannot be given more tokens, or the data have none to add; the message says what to do."""


class CannotAdapt(UsageError):
    """Adapters like these cannot be made here; the message says which setting to change."""


class TooLong(UsageError):
    """Rows or blocks may be longer than the base model can take: lower `max_row_tokens` or `block_tokens`."""


class BaseRefused(UsageError):
    """A folder holds no base model that can be taken over; the message says why, and what to do."""


class CannotTrain(UsageError):
    """This base and this recipe do not go together: the message says what does."""


class TrainerRefused(UsageError):
    """That key may not sign a training: make one with `signalbox keys new NAME --role trainer --person NAME`."""


class TrainingFailed(SignalboxError):
    """The run ended before its last step; the message carries the reason. The same call takes it up again."""


class TrainingSaved(TrainingFailed):
    """The run was asked to end before its last step and saved where it stood: the same call goes on from there."""

    exit_status = 75
    """EX_TEMPFAIL of sysexits.h: try again."""


class CheckpointBroken(SignalboxError):
    """A part of a checkpoint is missing: take the run up from an earlier one."""


class OutOfMemory(TrainingFailed):
    """A worker had no memory left; the message says which setting to change."""


class OverBudget(SignalboxError):
    """The run is estimated to need more than its budget allows; the message says which setting to change."""


class SubspaceBroken(SignalboxError):
    """Weights left the subspace that they were to stay in; nothing of such a run may be used."""
