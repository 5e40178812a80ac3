"""The verdict in plain words. It never calls something safe: at most, these attacks found nothing.

Three kinds. *leaks*: at least one image was recognisable, and luck does not explain it. *none found*: all was
graded, nothing was recognisable, and the positive control shows that the attack can do it. *not shown to be
safe*: everything else, i.e. attacks failed, nothing was graded, the attack has no, too little or unknown
power here, or what was recognised looks like luck (see `lucky_guess`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fl_audit.reports.chance import SIGNIFICANCE, chance, lucky_guess, odds, power
from fl_audit.reports.schema import (
    ClientSummary,
    DefenseSummary,
    FailedStatus,
    Leak,
    PositiveControl,
    Summary,
)
from fl_audit.reports.words import aggregate, circumstance, count, failed, interval, listing, percent, upfirst

Kind = Literal["leaks", "none-found", "not-shown"]

MOST_NAMES = 3
"""Defenses that a headline names one by one."""

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
    source = f" in {aggregate(leak.aggregate_of)}" if leak.aggregate_of else ""
    tally = f"{leak.recognisable} of {count(leak.graded, 'image')} could be recognised{source} ({shown})"
    missing = _missing(leak)
    if leak.recognisable:
        more = f" {missing}: the true share may be higher." if missing else ""
        guess = lucky_guess(leak, summary)
        if guess is None:
            return Verdict("leaks", f"{start} {tally}.{more}")
        doubt = (
            f"the rule calls {guess.recognisable} of {count(guess.graded, 'mere guess', 'mere guesses')} "
            f"recognised too ({guess.words}), so luck may explain it"
            f"{', the images of one update counted together' if leak.graded != leak.updates else ''}: "
            "look at the pictures"
        )
        return Verdict("not-shown", f"{start} {tally}, but {doubt}. Not shown to be safe.{more}")
    doubts = [missing] if missing else []
    if positive is None:
        doubts.append("no positive control was run, so whether the attack has power here is unknown")
    elif positive.power != "yes" and chance(positive, leak) >= SIGNIFICANCE:
        part = f" ({odds(positive, leak)})" if positive.power == "partly" else ""
        doubts.append(f"{power(positive)}{part}")
    if summary.doubt:
        doubts.append("the clients train in a way that the audit does not know in full")
    if doubts:
        return Verdict("not-shown", f"{start} {tally}, but {listing(doubts)}: not shown to be safe.")
    text = f"{start} {tally}: these attacks found no leak"
    if positive is not None and positive.power != "yes":
        text += f", though they reach only part of the control ({odds(positive, leak)})"
    if leak.partly_failed:
        text += (
            f"; on {count(leak.partly_failed, 'image')} one attack or more failed while another was graded"
        )
    return Verdict("none-found", f"{text}.")


def _missing(leak: Leak) -> str:
    """What was not graded besides what was, and of what was not attempted the reason; empty if all was."""
    parts = []
    if leak.not_attempted:
        reasons = {reason for status, reason in _reasons(leak) if status == "not-attempted"}
        why = f" ({reasons.pop()})" if len(reasons) == 1 else ""
        parts.append(f"{leak.not_attempted} more were not attempted{why}")
    if lost := leak.failed_count - leak.not_attempted:
        parts.append(f"{lost} more could not be graded ({failed(leak, but='not-attempted')})")
    return listing(parts)


def _common_reason(leak: Leak) -> str | None:
    """Why no attack on the group gave an image, where there is one reason for all of it."""
    reasons = _reasons(leak)
    status, reason = reasons.pop() if len(reasons) == 1 else (None, None)
    return reason if status in ("attack-failed", "not-attempted") else None


def _reasons(leak: Leak) -> set[tuple[FailedStatus, str]]:
    """Why images of the group were not graded."""
    clients = leak.clients if isinstance(leak, DefenseSummary) else [leak]
    return {
        (entry.status, entry.reason)
        for client in clients
        if isinstance(client, ClientSummary)
        for entry in client.reasons
    }


def judge_defense(defense: DefenseSummary, summary: Summary) -> Verdict:
    """The verdict on one defense."""
    return judge(defense, circumstance(defense), summary)


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


def _joined(circumstances: Sequence[str]) -> str:
    """``without defense and under a, b``; more than `MOST_NAMES` are only counted."""
    bare = [text for text in circumstances if not text.startswith("under ")]
    names = [text.removeprefix("under ") for text in circumstances if text.startswith("under ")]
    if len(names) > MOST_NAMES:
        return listing([*bare, f"under {len(names)} of the defenses"])
    return listing([*bare, *([f"under {listing(names)}"] if names else [])])
