"""The verdict in plain words. It never calls something safe: at most, these attacks found nothing.

Three kinds. *leaks*: at least one image was recognisable. *none found*: all was graded, nothing was
recognisable, and the positive control shows that the attack can do it. *not shown to be safe*: everything
else, i.e. attacks failed, nothing was graded, or the attack has no (or unknown) power here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fl_audit.reports.schema import DefenseSummary, Leak, PositiveControl, Summary
from fl_audit.reports.words import circumstance, count, failed, interval, listing, percent, spans

Kind = Literal["leaks", "none-found", "not-shown"]

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


def judge(leak: Leak, where: str, positive: PositiveControl | None) -> Verdict:
    """The verdict on one group.

    Args:
        leak: the counts.
        where: circumstance at the start of a sentence, e.g. ``Without defense`` or ``Under dp``.
        positive: the positive control, None if it was not run.
    """
    start = where[:1].upper() + where[1:]
    if not leak.graded:
        lost = f" ({failed(leak)})" if leak.failures else ""
        why = f"nothing could be graded{lost}" if leak.images or leak.failures else "nothing was attacked"
        return Verdict("not-shown", f"{start} {why}: nothing is shown about safety.")
    shown = percent(leak.leak_rate)
    if leak.leak_rate_ci is not None:
        shown += f", 95% CI {interval(leak.leak_rate_ci)}"
    tally = f"{leak.recognisable} of {count(leak.graded, 'image')} could be recognised ({shown})"
    missing = f"{leak.failures} more could not be graded ({failed(leak)})" if leak.failures else ""
    if leak.recognisable:
        more = f" {missing}: the true share may be higher." if missing else ""
        return Verdict("leaks", f"{start} {tally}.{more}")
    doubts = [missing] if missing else []
    if positive is None:
        doubts.append("no positive control was run, so whether the attack has power here is unknown")
    elif positive.power != "yes":
        doubts.append(power(positive))
    if doubts:
        return Verdict("not-shown", f"{start} {tally}, but {listing(doubts)}: not shown to be safe.")
    return Verdict("none-found", f"{start} {tally}: these attacks found no leak.")


def judge_defense(defense: DefenseSummary, summary: Summary) -> Verdict:
    """The verdict on one defense."""
    return judge(defense, circumstance(defense), summary.controls.positive)


def power(positive: PositiveControl) -> str:
    """What the positive control says, as part of a sentence."""
    if positive.power == "unknown":
        return positive.verdict
    reached = f"the positive control reached {positive.recognisable} of {positive.graded + positive.failures}"
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
    text = power(positive)
    return f"{text[:1].upper()}{text[1:]}: {meaning}."


def headline(summary: Summary) -> str:
    """One or two sentences over everything: where images could be recognised and where not."""
    groups: dict[Kind, list[str]] = {"leaks": [], "none-found": [], "not-shown": []}
    for defense in summary.defenses:
        groups[judge_defense(defense, summary).kind].append(circumstance(defense))
    sentences = []
    if groups["leaks"]:
        sentences.append(
            f"Clients\N{RIGHT SINGLE QUOTATION MARK} images could be recognised {_or_all(groups['leaks'])}."
        )
    if groups["none-found"]:
        sentences.append(f"These attacks recognised none {_or_all(groups['none-found'])}.")
    if groups["not-shown"]:
        sentences.append(f"Not shown to be safe: {_or_all(groups['not-shown'])}.")
    return " ".join(sentences) or "Nothing was audited."


def caveats(summary: Summary) -> list[str]:
    """What a reader must know before quoting the verdict: no baseline, a part attacked, the rule."""
    found = []
    if not any(defense.baseline for defense in summary.defenses):
        found.append("No undefended baseline was run, so how much a defense changed cannot be said.")
    federation, attacked = summary.federation, summary.attacked
    if len(attacked.clients) < federation.clients:
        found.append(
            f"Only clients {spans(attacked.clients)} of {federation.clients} were attacked "
            f"({attacked.rule}); nothing is known of the others."
        )
    if len(attacked.rounds) < federation.rounds:
        found.append(f"Only rounds {spans(attacked.rounds)} of {federation.rounds} were attacked.")
    if not summary.recognisability.calibrated:
        found.append(
            f"What counts as recognised is decided by the interim rule {summary.recognisability.name!r}, "
            "which is not calibrated on people: look at the pictures yourself."
        )
    return found


def _or_all(circumstances: Sequence[str]) -> str:
    """``without defense and under a, b``."""
    bare = [text for text in circumstances if not text.startswith("under ")]
    names = [text.removeprefix("under ") for text in circumstances if text.startswith("under ")]
    return listing([*bare, *([f"under {listing(names)}"] if names else [])])
