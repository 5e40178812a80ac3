"""The frontier: which settings are worth considering, and the weakest that leaks no more than guesses do.

Pure: from the counts of a summary, no files. Three notions:

- *Pareto front*: a setting is on it if no other one leaks at most as much at an accuracy at least as high,
  and is better in one of the two. It compares point estimates; intervals stand beside them.
- *At the level of guesses*: the 95% Wilson (1927) interval of the setting's leak rate includes the rate that
  the better kind of guess reaches (negative control), images that could not be graded counting as
  recognised; and the attack had the power to find more: the positive control recognised every image, or a
  part so large that chance explains the difference with less than 5% (Fisher's exact test on updates,
  one-sided, as in the verdict). Wilson, and not the interval over clients that the tables show: that one
  reaches down to 0 as soon as one client leaks nothing, and a client whose every image leaks would pass.
- *Weakest*: of the settings at that level, the one with the highest accuracy; of equal ones, that with the
  smaller epsilon. What weak means for a parameter depends on the defense; what it costs does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

from fl_audit.reports.chance import SIGNIFICANCE, chance, power, updates
from fl_audit.reports.families import family, find_sweeps, settings_in_words
from fl_audit.reports.frontier_facts import Frontier, FrontierPoint, Level
from fl_audit.reports.schema import Controls, DefenseSummary, GuessSummary, Leak, Summary
from fl_audit.reports.words import NOT_THE_SERVER, count, epsilon, failed, interval, listing, percent

CONFIDENCE = 0.95

AS_IS = "the app as it is"
"""An app's own defenses are in it, if it has any."""

WIDE = 0.25
"""Upper end of an interval from which the conclusion says that few images were attacked."""


@dataclass(frozen=True)
class Setting:
    """A defense with its parameters, the controls of its run and, in a comparison, the run's letter."""

    defense: DefenseSummary
    controls: Controls
    run: str = ""


def frontier_of(summary: Summary) -> Frontier:
    """The frontier of one run."""
    return frontier([Setting(defense, summary.controls) for defense in summary.defenses])


def frontier(settings: Sequence[Setting]) -> Frontier:
    """The frontier of settings that were measured alike."""
    described = [(setting.defense.name, setting.defense.params) for setting in settings]
    words = settings_in_words(described)
    front = pareto([(s.defense.leak_rate, s.defense.utility.accuracy) for s in settings])
    levels = [level(setting.defense, setting.controls) for setting in settings]
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
    return found.model_copy(update={"conclusion": _conclusion(found), "doubts": _doubts(found)})


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


def level(leak: Leak, controls: Controls) -> tuple[Level, str]:
    """Whether a setting leaks no more than guesses reach, and why; see the module for the rule."""
    guess, positive = guess_rate(controls), controls.positive
    if guess is None:
        return "unknown", "there is no negative control to compare with"
    if not leak.graded:
        return "unknown", "nothing was graded"
    reach = f"guesses reach {percent(guess)}"
    low, high = wilson(leak.recognisable, leak.graded)
    seen = f"{leak.recognisable} of {leak.graded} recognised (95% interval {interval((low, high))})"
    if low > guess:
        return "above", f"{seen}, {reach}"
    lost = leak.failed_count - leak.failed.get("client-failed", 0)
    if wilson(leak.recognisable + lost, leak.graded + lost)[0] > guess:
        return (
            "unknown",
            f"{seen}, {reach}; but {count(lost, 'more image')} could not be graded ({failed(leak)})",
        )
    if positive is None:
        return "unknown", "no positive control was run, so whether the attack has power here is unknown"
    if positive.power in ("no", "unknown"):
        return "unknown", power(positive)
    if positive.power == "partly" and chance(positive, leak) >= SIGNIFICANCE:
        of, hit = updates(leak)
        return "unknown", f"{seen}, in {hit} of {count(of, 'update')}, but {power(positive)}"
    return "guesses", f"{seen}, {reach}"


def guess_rate(controls: Controls) -> float | None:
    """The share that the better kind of guess gets recognised; None where no guess was graded."""
    guesses: list[GuessSummary] = list(controls.negative.values())
    return max((guess.leak_rate for guess in guesses if guess.leak_rate is not None), default=None)


def wilson(hits: int, tried: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share, ``tried`` at least 1."""
    found = binomtest(hits, tried).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


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


def bare(point: FrontierPoint) -> str:
    """How texts call a setting to which no defense was added."""
    return AS_IS if point.as_is else "no defense"


def _as_is(defense: DefenseSummary) -> bool:
    return defense.baseline and (defense.own is not None or defense.elsewhere)


def name_of(point: FrontierPoint) -> str:
    """How texts call a setting."""
    name = bare(point) if point.baseline else point.defense
    return f"{name} (run {point.run})" if point.run else name


def _conclusion(found: Frontier) -> str:
    points = found.points
    there = [point for point in points if point.level == "guesses"]
    if found.weakest is not None:
        point = points[found.weakest]
        if point.as_is:
            return (
                f"Already as the app is leakage is at the level of guesses here: {point.why}. Nothing needs "
                "to be added for that."
            )
        if point.baseline:
            return (
                "Already without any defense leakage is at the level of guesses here: "
                f"{point.why}. No defense is needed for that."
            )
        guarantee = (
            "it carries no differential-privacy guarantee"
            if point.epsilon is None
            else f"its epsilon is {epsilon(point.epsilon, point.delta)}{_against(point)}"
        )
        return (
            f"The weakest setting tried that keeps leakage at the level of guesses is {name_of(point)}: "
            f"{point.why}. The model is then worth {percent(point.accuracy)} accuracy{_loss(points, point)}; "
            f"{guarantee}."
        )
    if there:
        names = listing([name_of(point) for point in there])
        return (
            f"At the level of guesses: {names}. Accuracy was not measured, so which costs least is unknown."
        )
    if all(point.level == "unknown" for point in points):
        reasons = list(dict.fromkeys(point.why for point in points))
        return f"Nothing can be concluded: {reasons[0] if len(reasons) == 1 else 'see the reasons below'}."
    unknown = [name_of(point) for point in points if point.level == "unknown"]
    open_ = f" Nothing can be concluded on {listing(unknown)}." if unknown else ""
    return f"No setting that was tried is shown to keep leakage at the level of guesses.{open_}"


def _against(point: FrontierPoint) -> str:
    return "" if point.against_server else f", {NOT_THE_SERVER}"


def _loss(points: Sequence[FrontierPoint], point: FrontierPoint) -> str:
    """What it costs against no defense; empty where that is not known."""
    base = next((p for p in points if p.baseline and point.run in p.run.split(", ")), None)
    if base is None or base.accuracy is None or point.accuracy is None:
        return ""
    lost = 100 * (base.accuracy - point.accuracy)
    if abs(lost) < 0.5:
        return ", as without it" if base.as_is else ", as without defense"
    return f", {abs(lost):.0f} points {'below' if lost > 0 else 'above'} {bare(base)}"


def _doubts(found: Frontier) -> list[str]:
    """What speaks against relying on the weakest: a dearer setting of its sweep that leaks, few images."""
    if found.weakest is None:
        return []
    chosen = found.points[found.weakest]
    beside = {place for sweep in found.sweeps if found.weakest in sweep.points for place in sweep.points}
    worse = [
        name_of(point)
        for point in (found.points[place] for place in sorted(beside))
        if point.level == "above" and (point.accuracy or 0.0) < (chosen.accuracy or 0.0)
    ]
    doubts = []
    if worse:
        doubts.append(
            f"Of the same sweep, {listing(worse)} costs more accuracy and still leaks: repeat with more "
            "images or another seed before relying on the weakest setting."
        )
    if chosen.leak_rate_ci is not None and chosen.leak_rate_ci[1] > WIDE:
        doubts.append(
            f"Few images were attacked: up to {percent(chosen.leak_rate_ci[1])} may leak there all the same. "
            "Attack more rounds or clients before relying on it."
        )
    return doubts
