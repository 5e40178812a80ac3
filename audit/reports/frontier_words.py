"""The frontier in sentences: the conclusion, and what to know before acting on it."""

from collections.abc import Sequence

from fl_audit.reports.frontier_facts import Frontier, FrontierPoint
from fl_audit.reports.words import NOT_THE_SERVER, epsilon, listing, percent

AS_IS = "the app as it is"
"""An app's own defenses are in it, if it has any."""

WIDE = 0.25
"""Upper end of an interval from which the conclusion says that few updates were attacked."""


def bare(point: FrontierPoint) -> str:
    """How texts call a setting to which no defense was added."""
    return AS_IS if point.as_is else "no defense"


def name_of(point: FrontierPoint) -> str:
    """How texts call a setting."""
    name = bare(point) if point.baseline else point.defense
    return f"{name} (run {point.run})" if point.run else name


def conclusion(found: Frontier) -> str:
    """Which setting to choose, and what it costs, or why nothing can be said."""
    points = found.points
    there = [point for point in points if point.level == "guesses"]
    if found.weakest is not None:
        point = points[found.weakest]
        if point.as_is:
            needed = "" if point.leak_rate else " Nothing needs to be added for that."
            return f"Already as the app is leakage is at the level of guesses here: {point.why}.{needed}"
        if point.baseline:
            needed = "" if point.leak_rate else " No defense is needed for that."
            return (
                f"Already without any defense leakage is at the level of guesses here: {point.why}.{needed}"
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


def doubts(found: Frontier, classes: int) -> list[str]:
    """What speaks against relying on the weakest setting, one sentence or two for each reason.

    Args:
        found: the frontier.
        classes: of the data set of the weakest setting; 0 if there is none, or not known.
    """
    if found.weakest is None:
        return []
    chosen = found.points[found.weakest]
    beside = {place for sweep in found.sweeps if found.weakest in sweep.points for place in sweep.points}
    worse = [
        name_of(point)
        for point in (found.points[place] for place in sorted(beside))
        if point.level == "above" and (point.accuracy or 0.0) < (chosen.accuracy or 0.0)
    ]
    said = []
    if chosen.leak_rate:
        said.append(
            "Images were recognised there all the same, if not clearly more often than among guesses: look "
            "at the pictures before relying on it."
        )
    if classes and chosen.accuracy is not None and chosen.accuracy <= 1 / classes:
        said.append(
            f"At {percent(chosen.accuracy)} accuracy the model has learned nothing: of {classes} classes, "
            f"naming always the same one is right in {percent(1 / classes)} of cases. "
            f"{'Train for longer' if chosen.baseline else 'Try settings that cost less accuracy'}."
        )
    if worse:
        said.append(
            f"Of the same sweep, {listing(worse)} costs more accuracy and still leaks: repeat with more "
            "images or another seed before relying on the weakest setting."
        )
    if chosen.leak_rate_ci is not None and chosen.leak_rate_ci[1] > WIDE:
        said.append(
            f"Few updates were attacked: up to {percent(chosen.leak_rate_ci[1])} of images may leak there "
            "all the same. Attack more rounds or clients before relying on it."
        )
    return said
