"""Errors that a user can mend. Bugs are never wrapped in these: they keep their traceback."""


class AuditError(Exception):
    """A mistake or a missing thing that the user can mend; printed without a traceback (exit 1)."""

    exit_code = 1


class ConfigError(AuditError):
    """Bad usage or configuration: what was expected, what came, how to fix it (exit 2)."""

    exit_code = 2


class KnowledgeError(ConfigError):
    """An attack needs something that the threat model does not grant."""


class MissingDataError(AuditError):
    """A data set or its files are not on this machine; the message says how to get them."""


class MissingWeightsError(AuditError):
    """Network weights are not on this machine; the message says how to get them."""


class CaptureError(AuditError):
    """A file of a run folder is truncated, tampered with or not of the expected form."""


class FederationError(AuditError):
    """The federation itself failed, e.g. every client raised in a round."""
