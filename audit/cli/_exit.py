"""Exit codes that are no error's own (see `fl_audit.core.errors`)."""

OVER_LIMIT = 3
INTERRUPTED = 130
