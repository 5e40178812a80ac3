"""What a reader must know before quoting the verdict."""

from fl_audit.reports.schema import Summary
from fl_audit.reports.words import UNKNOWN_ELSE, UNKNOWN_PROTECTION, aggregate, spans, upfirst

MOST_LENGTH = 60
"""Letters up to which the clients that were attacked are named one by one."""


def caveats(summary: Summary) -> list[str]:
    """What a reader must know before quoting the verdict: no baseline, a part attacked, the rule."""
    found = []
    if not any(defense.baseline for defense in summary.defenses):
        found.append("No undefended baseline was run, so how much a defense changed cannot be said.")
    brought = {one.name: one.detail for defense in summary.defenses for one in defense.own or ()}
    found += [f"The app brings a defense of its own: {name} ({detail})." for name, detail in brought.items()]
    if any(defense.elsewhere for defense in summary.defenses):
        known = UNKNOWN_ELSE if brought else UNKNOWN_PROTECTION
        found.append(f"{upfirst(known)}: the captures were recorded elsewhere.")
    if brought:
        found.append("How much the app's own defenses change cannot be said: it was not run without them.")
    elif any(defense.own is not None for defense in summary.defenses):
        found.append(
            "No defense of the app's own was found: no mod around its training but Flower's for sizes, no "
            "strategy of Flower's with differential privacy, no Opacus. What it does inside its functions is "
            "not seen."
        )
    sources = dict.fromkeys(defense.utility.source for defense in summary.defenses)
    found += [f"Accuracy is {source}." for source in sources if source]
    if summary.doubt:
        found.append(f"{upfirst(summary.doubt)}.")
    together = sorted({size for defense in summary.defenses for size in defense.aggregate_of})
    if together:
        found.append(
            f"Where the server sees {aggregate(together)} and no single update, an image that is recognised "
            "is one of theirs; whose it is, the audit knows and the server is not told."
        )
    if summary.baseline_from is not None:
        found.append(f"{upfirst(summary.baseline_from)}.")
    federation, attacked = summary.federation, summary.attacked
    if len(attacked.clients) < federation.clients:
        one = len(attacked.clients) == 1
        named = f"{'client' if one else 'clients'} {spans(attacked.clients)} of {federation.clients}"
        if len(named) > MOST_LENGTH:
            named = f"{len(attacked.clients)} of {federation.clients} clients"
        found.append(
            f"Only {named} {'was' if one else 'were'} attacked ({attacked.rule}); "
            "nothing is known of the others."
        )
    if len(attacked.rounds) < federation.rounds:
        found.append(f"Only rounds {spans(attacked.rounds)} of {federation.rounds} were attacked.")
    if summary.limit:
        found.append(f"{upfirst(summary.limit)}.")
    if not summary.recognisability.calibrated:
        found.append(
            f"What counts as recognised is decided by the interim rule {summary.recognisability.name!r}, "
            "which is not calibrated on people: look at the pictures yourself."
        )
    return found
