"""What chance explains: few recognised images beside a control reached in part, and recognised guesses."""

from collections.abc import Mapping

from scipy.special import betainc
from scipy.stats import hypergeom

from fl_audit.reports.order import beyond_guess, by_name, closest
from fl_audit.reports.schema import GuessSummary, Leak, MetricFacts, MetricStats, PositiveControl, Summary
from fl_audit.reports.words import percent

SIGNIFICANCE = 0.05
"""A control that reached only some images counts if chance alone is less likely than this; see `chance`. So
do recognised images where guesses are recognised too; see `lucky_guess`."""


def updates(leak: Leak) -> tuple[int, int]:
    """Updates that were graded, and those of which an image was recognised.

    Summaries of older versions do not say how many there were: then the least that there can have been, one.
    """
    if leak.updates is None or leak.updates_recognised is None:
        return min(leak.graded, 1), min(leak.recognisable, 1)
    return leak.updates, leak.updates_recognised


def independent(leak: Leak) -> float:
    """Independent images that the graded ones count for; all of them in a summary of an older version."""
    return float(leak.graded) if leak.independent is None else leak.independent


def reached(positive: PositiveControl) -> tuple[int, int]:
    """Updates of the control that were tried, and those of which the image was recognised.

    Each has one image; one on which the attack failed was tried as well.
    """
    return positive.graded + positive.failed_count, positive.recognisable


def chance(positive: PositiveControl, leak: Leak) -> float:
    """Probability of so few updates with a recognised image, had the group leaked like the control.

    Fisher's exact test, one-sided, on updates: one counts once, however many images it holds, for these are
    attacked together and come out together or not at all. (With many images an update is harder than the
    control's with one; the test says nothing about that.) 1.0 if the control recognised nothing either.
    """
    tried, found = reached(positive)
    of, hit = updates(leak)
    return float(hypergeom.cdf(hit, tried + of, found + hit, of))


def odds(positive: PositiveControl, leak: Leak) -> str:
    """What `chance` counts, in words."""
    tried, found = reached(positive)
    of, hit = updates(leak)
    likely = percent(chance(positive, leak))
    return (
        f"counted by updates, since the images of one are attacked together: {hit or 'none'} of {of} here, "
        f"{found} of {tried} in the control, which chance alone gives in {likely} of cases"
    )


def lucky_guess(leak: Leak, summary: Summary) -> GuessSummary | None:
    """The kind of guess that explains all that was recognised of a group; None if none does.

    It explains it where two things come together: guesses are recognised so often that chance gives as many
    (`luck`), and no image came closer to its original than the closest guess, by the metric that recognition
    rests on. So one exact image among thousands is a leak. The positive control has no say: that the attack
    works on one image of a step does not make of one in 64, fewer than guesses reach, a recognised one.
    """
    if closer_than_guesses(leak, summary) is not False:
        return None
    graded = [guess for guess in summary.controls.negative.values() if guess.graded]
    likeliest = max(graded, key=lambda guess: guess.recognisable / guess.graded)
    return likeliest if luck(leak, likeliest) >= SIGNIFICANCE else None


def closer_than_guesses(leak: Leak, summary: Summary) -> bool | None:
    """Whether an image came closer to its original than the closest guess did; None if it cannot be said."""
    metric = by_name(summary.metrics).get(summary.recognisability.metric)
    graded = [guess for guess in summary.controls.negative.values() if guess.graded]
    if metric is None or not graded:
        return None
    closest_guess = closest(metric, [_closest(guess.metrics, metric) for guess in graded])
    return beyond_guess(metric, _closest(leak.metrics, metric), closest_guess)


def _closest(measured: Mapping[str, MetricStats], metric: MetricFacts) -> float | None:
    return measured.get(metric.name, MetricStats(n=0)).worst


def luck(leak: Leak, guess: GuessSummary) -> float:
    """Probability that as many of the group are recognised, or more, at the rate at which guesses are.

    One-sided binomial test on `independent` images, since those of one update come out alike: with one update
    in which all are recognised, it is the rate of guesses itself, however many images the update holds. The
    numbers need not be whole: the tail of the binomial distribution is the incomplete beta function (Rao and
    Scott, "A simple method for the analysis of clustered binary data", Biometrics 48, 1992). 0.0 where no
    guess was recognised.
    """
    of, rate = independent(leak), guess.recognisable / guess.graded
    found = of * leak.recognisable / leak.graded
    return float(betainc(found, of - found + 1, rate)) if found else 1.0


def power(positive: PositiveControl) -> str:
    """What the positive control says, as part of a sentence."""
    if positive.power == "unknown":
        return positive.verdict
    tried, found = reached(positive)
    return f"the positive control reached {found} of {tried}, so {positive.verdict}"
