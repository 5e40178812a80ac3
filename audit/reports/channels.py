"""What the server saw besides the images, channel by channel: the finding, what it means, how to stop it."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fl_audit.reports.schema import ClientSummary, DefenseSummary, SeenRound, Summary
from fl_audit.reports.words import count, listing, number, percent, title

MOST_NAMES = 12
"""Names of metrics that a sentence lists."""

NOT_RECORDED = "not recorded in this run"


@dataclass(frozen=True)
class Sighting:
    """What was seen, and under which settings it was the same."""

    settings: str
    text: str


@dataclass(frozen=True)
class Channel:
    """One thing that travels beside the images, in plain words."""

    slug: str
    title: str
    findings: list[Sighting]
    meaning: str
    stop: str


def channels(summary: Summary, client: int | None = None) -> list[Channel]:
    """All channels, over all clients or of one; settings with the same finding are drawn together."""
    classes = max(len(summary.dataset.classes), 1)
    groups = [
        (title(defense), _Seen(defense, client))
        for defense in summary.defenses
        if client is None or any(entry.client == client for entry in defense.clients)
    ]
    return [
        Channel(slug, heading, _drawn_together(groups, say), meaning.format(classes=classes), stop)
        for slug, heading, say, meaning, stop in _CHANNELS
    ]


class _Seen:
    """What is known of one defense's clients, or of one of them."""

    def __init__(self, defense: DefenseSummary, client: int | None) -> None:
        self.clients: list[ClientSummary] = [
            entry for entry in defense.clients if client is None or entry.client == client
        ]
        self.rounds: list[SeenRound] = [seen for entry in self.clients for seen in entry.seen]

    def without(self, what: str) -> str:
        """Why nothing is known: the most frequent reason."""
        reasons = [text for seen in self.rounds for name, text in seen.unmeasured.items() if name == what]
        return f"nothing: {statistics.mode(reasons)}" if reasons else NOT_RECORDED


def _examples(seen: _Seen) -> str:
    told = [entry.num_examples for entry in seen.rounds if entry.num_examples is not None]
    if not told:
        told = [
            value
            for entry in seen.clients
            if isinstance(value := entry.in_clear.get("num-examples"), int) and not isinstance(value, bool)
        ]
    if not told:
        return "no client said it" if seen.rounds else NOT_RECORDED
    return f"{_range([float(value) for value in told])} in each reply"


def _metrics(seen: _Seen) -> str:
    names = {name for entry in seen.rounds for name in entry.metrics}
    names |= {name for entry in seen.clients for name in entry.in_clear}
    names.discard("num-examples")
    if not names:
        return "none was sent" if seen.rounds else NOT_RECORDED
    shown = sorted(names)[:MOST_NAMES]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"{', '.join(name[:80] for name in shown)}{more}"


def _errors(seen: _Seen) -> str:
    texts = [entry for entry in seen.rounds if entry.error is not None]
    failures = sum(len(entry.failures) for entry in seen.clients)
    if not texts:
        if failures:
            return f"{count(failures, 'failed round')}; the texts stand below"
        return "none was sent" if seen.rounds else NOT_RECORDED
    traces = sum(entry.stack_trace for entry in texts)
    shown = "with a stack trace, path or address" if traces else "none of them with a stack trace"
    return f"{count(len(texts), 'text')}, {f'{traces} ' if traces else ''}{shown}"


def _norms(seen: _Seen) -> str:
    norms = [entry.update_norm for entry in seen.rounds if entry.update_norm is not None]
    if not norms:
        return seen.without("update_norm")
    middle = f", median {number(statistics.median(norms))}" if len(norms) > 2 else ""
    return f"{_range(norms)}{middle}{_missing(len(seen.rounds) - len(norms))}"


def _statistics(seen: _Seen) -> str:
    found = [entry.batch_norm for entry in seen.rounds if entry.batch_norm is not None]
    if not found:
        return seen.without("batch_norm")
    if not any(entry.came for entry in found):
        return "the model has them, no client sent them back"
    moved = [entry for entry in found if entry.moved]
    if not moved:
        return "sent back unchanged: they say nothing about the data"
    furthest = max((entry.furthest or 0.0 for entry in moved), default=0.0)
    steps = sorted({entry.steps for entry in moved if entry.steps})
    counted = f"; the counters give away {_range([float(s) for s in steps])} local steps" if steps else ""
    largest = max(entry.moved for entry in moved)
    far = percent(furthest) if furthest <= 1 else f"{furthest:.1f} times their size"
    return (
        f"{largest} of {moved[0].sent} statistics moved in {len(moved)} of {count(len(found), 'update')}, "
        f"by up to {far}{counted}"
    )


def _labels(seen: _Seen) -> str:
    found = [entry for entry in seen.rounds if entry.labels is not None]
    if not found:
        return seen.without("labels")
    text = f"inferred from {len(found)} of {count(len(seen.rounds), 'update')}"
    judged = [entry.labels_match for entry in found if entry.labels_match is not None]
    if not judged:
        return f"{text}; whether it is right is not known"
    right, images = sum(m.right for m in judged), sum(m.images for m in judged)
    exact = sum(match.exact for match in judged)
    return (
        f"{text}; the distribution is exactly the true one in {exact} of {len(judged)}, "
        f"{right} of {count(images, 'label')} right"
    )


_CHANNELS: Sequence[tuple[str, str, Callable[[_Seen], str], str, str]] = (
    (
        "examples",
        "Number of examples",
        _examples,
        "How much data each client holds, and when it grows: for a hospital, how many patients. It also "
        "tells an attacker how many images to look for.",
        "Send the same number from every client, or a rounded one, and average without weights. No defense "
        "of the arrays hides it: it travels in clear even under secure aggregation.",
    ),
    (
        "metrics",
        "Metrics",
        _metrics,
        "Loss and accuracy on a client\N{RIGHT SINGLE QUOTATION MARK}s own data tell how well the model "
        "knows that data already, which helps to find out whether somebody\N{RIGHT SINGLE QUOTATION MARK}s "
        "record was in it.",
        "Send only what the server needs. Evaluate on public data, or let the metrics go through secure "
        "aggregation like the update.",
    ),
    (
        "errors",
        "Error texts",
        _errors,
        "An error text can carry file names, user names, values and lines of code; a stack trace tells "
        "versions and folders of the client\N{RIGHT SINGLE QUOTATION MARK}s machine.",
        "Catch exceptions in the client app, log them there, and send a fixed text.",
    ),
    (
        "norms",
        "Size of the update (norm)",
        _norms,
        "How much a client\N{RIGHT SINGLE QUOTATION MARK}s data surprised the model: clients with rare or "
        "changed data stand out, round by round.",
        "Clip every update to a norm that most exceed, and add noise (dp). Secure aggregation hides the size "
        "of a single update.",
    ),
    (
        "statistics",
        "Batch-norm statistics",
        _statistics,
        "Running means and variances are those of the client\N{RIGHT SINGLE QUOTATION MARK}s own images, "
        "layer by layer. Attacks use them to rebuild images from larger batches.",
        "Keep them at the client, train with batch norm frozen, or use group norm, which has none.",
    ),
    (
        "labels",
        "Label distribution",
        _labels,
        "Which classes a client holds and how many of each: for medical data, the diagnoses. It takes no "
        "recognisable picture. With {classes} classes a blind guess of one label is right about once in "
        "{classes}.",
        "Noise on the update (dp), larger batches and more local steps blur it; secure aggregation hides the "
        "single client. The findings show how far each setting did.",
    ),
)


def _drawn_together(groups: Iterable[tuple[str, _Seen]], say: Callable[[_Seen], str]) -> list[Sighting]:
    found: dict[str, list[str]] = {}
    for name, seen in groups:
        found.setdefault(say(seen), []).append(name)
    if len(found) == 1:
        text, names = next(iter(found.items()))
        return [Sighting("Every setting" if len(names) > 1 else names[0], text)]
    return [Sighting(listing(names), text) for text, names in found.items()]


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    whole = all(value == int(value) for value in values)
    first, last = (f"{v:,.0f}" if whole else number(v) for v in (low, high))
    return first if low == high else f"{first} to {last}"


def _missing(amount: int) -> str:
    return f"; not measured in {count(amount, 'update')}" if amount else ""
