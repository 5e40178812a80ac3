"""The verdict in plain words. It never calls something safe: at most, these attacks found nothing.

Three kinds. *leaks*: at least one image was recognisable, and luck does not explain it. *none found*: all was
graded, nothing was recognisable, and the positive control shows that the attack can do it. *not shown to be
safe*: everything else, i.e. attacks failed, nothing was graded, the attack has no, too little or unknown
power here, or what was recognised looks like luck (see `lucky_guess`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.stats import binom

from fl_audit.reports.order import beyond_guess, by_name, closest
from fl_audit.reports.schema import (
    ClientSummary,
    DefenseSummary,
    GuessSummary,
    Leak,
    MetricFacts,
    MetricStats,
    PositiveControl,
    Summary,
)
from fl_audit.reports.words import circumstance, count, failed, interval, listing, percent, spans, upfirst

Kind = Literal["leaks", "none-found", "not-shown"]

SIGNIFICANCE = 0.05
"""A control that reached only some images counts if chance alone is less likely than this; see `chance`. So
do recognised images where guesses are recognised too; see `lucky_guess`."""

MOST_NAMES = 3
"""Defenses that a headline names one by one."""

MOST_LENGTH = 60
"""Letters up to which the clients that were attacked are named one by one."""

LABELS: dict[Kind, str] = {
    "leaks": "Leaks",
    "none-found": "No leak found",
    "not-shown": "Not shown to be safe",
}


@dataclass(frozen=True)
class Verdict:
    """A verdict on one group of images: ``label`` for a badge, ``text`` in full sentences."""

    kind: Kind
    text: str

    @property
    def label(self) -> str:
        """Two to five words."""
        return LABELS[self.kind]


def judge(leak: Leak, where: str, summary: Summary) -> Verdict:
    """The verdict on one group.

    Args:
        leak: the counts.
        where: circumstance at the start of a sentence, e.g. ``Without defense`` or ``Under dp``.
        summary: the run it belongs to, for its controls.
    """
    positive = summary.controls.positive
    start = f"{upfirst(where)},"
    if not leak.graded:
        lost = f" ({failed(leak)})" if leak.failed_count else ""
        why = f"nothing could be graded{lost}" if leak.images or leak.failed_count else "nothing was attacked"
        if common := _common_reason(leak):
            return Verdict("not-shown", f"{start} {why}: {common}. Nothing is shown about safety.")
        return Verdict("not-shown", f"{start} {why}: nothing is shown about safety.")
    shown = percent(leak.leak_rate)
    if leak.leak_rate_ci is not None:
        shown += f", 95% CI {interval(leak.leak_rate_ci)}"
    tally = f"{leak.recognisable} of {count(leak.graded, 'image')} could be recognised ({shown})"
    missing = f"{leak.failed_count} more could not be graded ({failed(leak)})" if leak.failed_count else ""
    if leak.recognisable:
        more = f" {missing}: the true share may be higher." if missing else ""
        guess = lucky_guess(leak, summary)
        if guess is None:
            return Verdict("leaks", f"{start} {tally}.{more}")
        doubt = (
            f"the rule calls {guess.recognisable} of {count(guess.graded, 'mere guess', 'mere guesses')} "
            f"recognised too ({guess.words}), so luck may explain it: look at the pictures"
        )
        return Verdict("not-shown", f"{start} {tally}, but {doubt}. Not shown to be safe.{more}")
    doubts = [missing] if missing else []
    if positive is None:
        doubts.append("no positive control was run, so whether the attack has power here is unknown")
    elif positive.power != "yes" and chance(positive, leak) >= SIGNIFICANCE:
        doubts.append(power(positive))
    if doubts:
        return Verdict("not-shown", f"{start} {tally}, but {listing(doubts)}: not shown to be safe.")
    text = f"{start} {tally}: these attacks found no leak"
    if positive is not None and positive.power != "yes":
        text += ", though they reach only part of the control"
    if leak.partly_failed:
        text += (
            f"; on {count(leak.partly_failed, 'image')} one attack or more failed while another was graded"
        )
    return Verdict("none-found", f"{text}.")


def _common_reason(leak: Leak) -> str | None:
    """Why no attack on the group gave an image, where there is one reason for all of it."""
    clients = leak.clients if isinstance(leak, DefenseSummary) else [leak]
    reasons = {
        (entry.status, entry.reason)
        for client in clients
        if isinstance(client, ClientSummary)
        for entry in client.reasons
    }
    status, reason = reasons.pop() if len(reasons) == 1 else (None, None)
    return reason if status == "attack-failed" else None


def chance(positive: PositiveControl, leak: Leak) -> float:
    """Probability that all that was recognised lay in the control, had the defense changed nothing.

    Fisher's exact test, one-sided, for a group of which nothing was recognised. It takes images for
    independent. 1.0 if the control recognised nothing either.
    """
    tried = positive.graded + positive.failed_count
    together = math.comb(tried + leak.graded, positive.recognisable)
    return math.comb(tried, positive.recognisable) / together


def lucky_guess(leak: Leak, summary: Summary) -> GuessSummary | None:
    """The kind of guess that explains all that was recognised of a group; None if none does.

    It explains it where three things come together: the positive control did not show full power, guesses are
    recognised so often that chance gives as many (`luck`), and no image came closer to its original than the
    closest guess, by the metric that recognition rests on. So one exact image among thousands is a leak.
    """
    positive = summary.controls.positive
    metric = by_name(summary.metrics).get(summary.recognisability.metric)
    graded = [guess for guess in summary.controls.negative.values() if guess.graded]
    if metric is None or not graded or (positive is not None and positive.power == "yes"):
        return None
    likeliest = max(graded, key=lambda guess: guess.recognisable / guess.graded)
    closest_guess = closest(metric, [_closest(guess.metrics, metric) for guess in graded])
    if beyond_guess(metric, _closest(leak.metrics, metric), closest_guess) is not False:
        return None
    return likeliest if luck(leak, likeliest) >= SIGNIFICANCE else None


def _closest(measured: Mapping[str, MetricStats], metric: MetricFacts) -> float | None:
    return measured.get(metric.name, MetricStats(n=0)).worst


def luck(leak: Leak, guess: GuessSummary) -> float:
    """Probability that as many of the group are recognised, or more, at the rate at which guesses are.

    One-sided binomial test; it takes images for independent. 0.0 where no guess was recognised.
    """
    return float(binom.sf(leak.recognisable - 1, leak.graded, guess.recognisable / guess.graded))


def judge_defense(defense: DefenseSummary, summary: Summary) -> Verdict:
    """The verdict on one defense."""
    return judge(defense, circumstance(defense), summary)


def power(positive: PositiveControl) -> str:
    """What the positive control says, as part of a sentence."""
    if positive.power == "unknown":
        return positive.verdict
    reached = (
        f"the positive control reached {positive.recognisable} of {positive.graded + positive.failed_count}"
    )
    return f"{reached}, so {positive.verdict}"


def control_sentence(positive: PositiveControl | None) -> str:
    """What the positive control says, in sentences for the top of the page."""
    if positive is None:
        return "No positive control was run: where nothing was recognised, the attack may simply be weak."
    meaning = {
        "yes": "where nothing was recognised, it was not for want of a working attack",
        "partly": "where little was recognised, the attack may simply have been weak",
        "no": "that nothing was recognised says nothing about the clients",
        "unknown": "that nothing was recognised says nothing about the clients",
    }[positive.power]
    return f"{upfirst(power(positive))}: {meaning}."


def headline(summary: Summary) -> str:
    """One to three sentences over everything: where images could be recognised and where not."""
    kinds = [(circumstance(defense), judge_defense(defense, summary).kind) for defense in summary.defenses]
    return overall("clients\N{RIGHT SINGLE QUOTATION MARK} images", kinds)


def overall(whose: str, kinds: Sequence[tuple[str, Kind]]) -> str:
    """The verdicts on ``whose`` images as sentences; ``kinds`` holds circumstance and kind."""
    groups: dict[Kind, list[str]] = {"leaks": [], "none-found": [], "not-shown": []}
    for where, kind in kinds:
        groups[kind].append(where)
    sentences = []
    if groups["leaks"]:
        sentences.append(f"{whose} could be recognised {_joined(groups['leaks'])}.")
    if groups["none-found"]:
        sentences.append(f"These attacks recognised none {_joined(groups['none-found'])}.")
    if groups["not-shown"]:
        sentences.append(f"Not shown to be safe: {_joined(groups['not-shown'])}.")
    return " ".join(map(upfirst, sentences)) or "Nothing was audited."


def caveats(summary: Summary) -> list[str]:
    """What a reader must know before quoting the verdict: no baseline, a part attacked, the rule."""
    found = []
    if not any(defense.baseline for defense in summary.defenses):
        found.append("No undefended baseline was run, so how much a defense changed cannot be said.")
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
    if not summary.recognisability.calibrated:
        found.append(
            f"What counts as recognised is decided by the interim rule {summary.recognisability.name!r}, "
            "which is not calibrated on people: look at the pictures yourself."
        )
    return found


def _joined(circumstances: Sequence[str]) -> str:
    """``without defense and under a, b``; more than `MOST_NAMES` are only counted."""
    bare = [text for text in circumstances if not text.startswith("under ")]
    names = [text.removeprefix("under ") for text in circumstances if text.startswith("under ")]
    if len(names) > MOST_NAMES:
        return listing([*bare, f"under {len(names)} of the defenses"])
    return listing([*bare, *([f"under {listing(names)}"] if names else [])])
