"""The frontier: which settings are worth considering, and the weakest that leaks no more than guesses do.

Pure: from the counts of a summary, no files. Three notions:

- *Pareto front*: a setting is on it if no other one leaks at most as much at an accuracy at least as high,
  and is better in one of the two. It compares point estimates; intervals stand beside them.
- *At the level of guesses*: the 95% Wilson (1927) interval of the setting's leak rate includes the rate that
  the better kind of guess reaches (negative control), each image counted for itself and those that could not
  be graded as recognised; and the attack had the power to find more: the positive control recognised every
  image, or a part so large that chance explains the difference with less than 5% (Fisher's exact test on
  updates, one-sided, as in the verdict). *Above* it: the interval lies above that rate even if the images of
  one update count together (`fl_audit.metrics.leakrate`), or images were recognised and one came closer to
  its original than any guess did, which is a leak in the verdict too. Between the two nothing is concluded:
  images that come out together may be luck, but that is no ground to call a setting as good as guessing. Nor
  is it the interval over clients that the tables show: that one reaches down to 0 as soon as one client leaks
  nothing, and a client whose every image leaks would pass.
- *Weakest*: of the settings at that level, the one with the highest accuracy; of equal ones, that with the
  smaller epsilon. What weak means for a parameter depends on the defense; what it costs does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fl_audit.metrics import wilson
from fl_audit.reports.chance import (
    SIGNIFICANCE,
    chance,
    closer_than_guesses,
    independent,
    odds,
    power,
    updates,
)
from fl_audit.reports.families import family, find_sweeps, settings_in_words
from fl_audit.reports.frontier_facts import Frontier, FrontierPoint, Level
from fl_audit.reports.frontier_words import AS_IS, conclusion, doubts
from fl_audit.reports.schema import Controls, DefenseSummary, GuessSummary, Leak, Summary
from fl_audit.reports.words import count, failed, interval, percent


@dataclass(frozen=True)
class Setting:
    """A defense with its parameters, the controls and classes of its run and, in a comparison, its letter.

    ``closer``: whether one of its images came closer to its original than the closest guess.
    """

    defense: DefenseSummary
    controls: Controls
    closer: bool
    run: str
    classes: int


def frontier_of(summary: Summary) -> Frontier:
    """The frontier of one run."""
    return frontier([setting_of(defense, summary) for defense in summary.defenses])


def setting_of(defense: DefenseSummary, summary: Summary, run: str = "") -> Setting:
    """A defense of a run with what it is held against there."""
    closer = closer_than_guesses(defense, summary) is True
    return Setting(defense, summary.controls, closer, run, len(summary.dataset.classes))


def frontier(settings: Sequence[Setting]) -> Frontier:
    """The frontier of settings that were measured alike."""
    described = [(setting.defense.name, setting.defense.params) for setting in settings]
    words = settings_in_words(described)
    front = pareto([(s.defense.leak_rate, s.defense.utility.accuracy) for s in settings])
    levels = [level(setting.defense, setting.controls, closer=setting.closer) for setting in settings]
    points = [
        FrontierPoint(
            run=setting.run,
            defense=setting.defense.name,
            family=AS_IS if _as_is(setting.defense) else family(setting.defense.name),
            setting=words[place],
            baseline=setting.defense.baseline,
            as_is=_as_is(setting.defense),
            leak_rate=setting.defense.leak_rate,
            leak_rate_ci=setting.defense.leak_rate_ci,
            accuracy=setting.defense.utility.accuracy,
            epsilon=setting.defense.epsilon,
            delta=setting.defense.delta,
            against_server=setting.defense.against_server,
            front=front[place],
            level=levels[place][0],
            why=levels[place][1],
        )
        for place, setting in enumerate(settings)
    ]
    rates = [rate for s in settings if (rate := guess_rate(s.controls)) is not None]
    found = Frontier(
        points=points,
        sweeps=find_sweeps(described),
        guess_rate=max(rates, default=None),
        weakest=weakest(points),
        conclusion="",
    )
    classes = 0 if found.weakest is None else settings[found.weakest].classes
    return found.model_copy(update={"conclusion": conclusion(found), "doubts": doubts(found, classes)})


def pareto(points: Sequence[tuple[float | None, float | None]]) -> list[bool]:
    """For each (leak rate, accuracy) whether no other is better in one and at least as good in the other.

    Equal points are on the front together; where a value is None the point is not on it.
    """
    known = [(leak, worth) for leak, worth in points if leak is not None and worth is not None]
    return [
        leak is not None
        and worth is not None
        and not any(a <= leak and b >= worth and (a < leak or b > worth) for a, b in known)
        for leak, worth in points
    ]


def level(leak: Leak, controls: Controls, *, closer: bool = False) -> tuple[Level, str]:
    """Whether a setting leaks no more than guesses reach, and why; see the module for the rule."""
    guess, positive = guess_rate(controls), controls.positive
    if guess is None:
        return "unknown", "there is no negative control to compare with"
    if not leak.graded:
        return "unknown", "nothing was graded"
    reach = f"guesses reach {percent(guess)}"
    low, high = wilson(leak.recognisable / leak.graded, independent(leak))
    of, hit = updates(leak)
    source = f", in {hit} of {count(of, 'update')}" if of != leak.graded else ""
    seen = f"{leak.recognisable} of {leak.graded} recognised{source} (95% interval {interval((low, high))})"
    if low > guess:
        return "above", f"{seen}, {reach}"
    if leak.recognisable and closer:
        return "above", f"{seen}, {reach}; but an image came closer to its original than any guess"
    if wilson(leak.recognisable / leak.graded, leak.graded)[0] > guess:
        return (
            "unknown",
            f"{seen}, {reach}; but the images of one update come out together, so that this may be luck: "
            "attack more clients or rounds",
        )
    lost = leak.failed_count - leak.failed.get("client-failed", 0)
    if wilson((leak.recognisable + lost) / (leak.graded + lost), leak.graded + lost)[0] > guess:
        return (
            "unknown",
            f"{seen}, {reach}; but {count(lost, 'more image')} could not be graded ({failed(leak)})",
        )
    if positive is None:
        return "unknown", "no positive control was run, so whether the attack has power here is unknown"
    if positive.power in ("no", "unknown"):
        return "unknown", power(positive)
    if positive.power == "partly" and chance(positive, leak) >= SIGNIFICANCE:
        return "unknown", f"{seen}, but {power(positive)} ({odds(positive, leak)})"
    return "guesses", f"{seen}, {reach}"


def guess_rate(controls: Controls) -> float | None:
    """The share that the better kind of guess gets recognised; None where no guess was graded."""
    guesses: list[GuessSummary] = list(controls.negative.values())
    return max((guess.leak_rate for guess in guesses if guess.leak_rate is not None), default=None)


def weakest(points: Sequence[FrontierPoint]) -> int | None:
    """The cheapest setting at the level of guesses; an undefended one that is there comes before all."""
    there = [place for place, point in enumerate(points) if point.level == "guesses"]
    bare = [place for place in there if points[place].baseline]
    known = [place for place in there if points[place].accuracy is not None]
    if bare or not known:
        return bare[0] if bare else None

    def cost(place: int) -> tuple[float, float]:
        point = points[place]
        return -(point.accuracy or 0.0), float("inf") if point.epsilon is None else point.epsilon

    return min(known, key=cost)


def _as_is(defense: DefenseSummary) -> bool:
    return defense.baseline and (defense.own is not None or defense.elsewhere)
