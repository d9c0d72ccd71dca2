"""The exception tree of arch_search. A candidate's failure is never one of these: it is a Verdict or an Ending."""

from __future__ import annotations


class ArchSearchError(Exception):
    """Root of everything arch_search raises on purpose; the command line prints it as one line, exit code 1."""


class ConfigError(ArchSearchError):
    """A setting is unknown, missing or out of range; the command line exits with 2."""


class CampaignError(ArchSearchError):
    """The campaign folder is missing, held by another driver, or contradicts itself."""


class LeaseHeldError(CampaignError):
    """Another driver runs the campaign."""


class LeaseLostError(CampaignError):
    """Another driver has taken the campaign over; this one may write and submit nothing more."""


class DataError(ArchSearchError):
    """A corpus is missing, unreadable or too small."""


class ModelServerError(ArchSearchError):
    """The model server cannot be installed, started or reached."""


class WeightsError(ModelServerError):
    """Model weights are missing or their sha256 is wrong."""


class ReplyPendingError(ArchSearchError):
    """A job in the queue will answer; raised where the caller would rather come back than wait. Says what it is."""


class CampaignPausedError(ArchSearchError):
    """A researcher has paused the campaign: nothing more is proposed until it is resumed."""


class ReplyError(ArchSearchError):
    """The model's reply could not be used after bounded retries; the caller turns it into a refused proposal."""


class ProposalError(ArchSearchError):
    """A reply does not make a program; belongs to the proposal, becomes a refusing Verdict."""


class JailError(ArchSearchError):
    """No usable jail rung, or the jail itself (not the program in it) failed."""
