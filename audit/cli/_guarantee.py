"""A privacy guarantee in a cell of a table."""

from fl_audit.reports.facts import DefenseBase
from fl_audit.reports.frontier_facts import FrontierPoint
from fl_audit.reports.words import NOT_THE_SERVER, epsilon


def guarantee(of: DefenseBase | FrontierPoint) -> str:
    """Epsilon with its delta and, where it does not hold against the server, a line that says so."""
    if of.epsilon is None:
        return "none"
    text = epsilon(of.epsilon, of.delta)
    return text if of.against_server else f"{text}\n{NOT_THE_SERVER}"
