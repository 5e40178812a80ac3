"""What the words and measures of a report mean, for readers who have not met them."""

from fl_audit.reports.schema import Summary
from fl_audit.reports.words import listing


def glossary(summary: Summary) -> list[tuple[str, str]]:
    """Terms of this report with their meaning, in the order in which a reader meets them."""
    guarantees = any(defense.epsilon is not None for defense in summary.defenses)
    terms = [
        (
            "Federated learning",
            "Clients train a common model on images that stay with them. In each round the server sends the "
            "model, and clients send back what changed.",
        ),
        (
            "Update",
            "What one client sends in one round. It is made of numbers, not of images, but images can often "
            "be computed back from it: that is gradient inversion, the attack tried here.",
        ),
        (
            "Recognisable, leak rate",
            "An image counts as recognisable if a person would probably recognise the original in what the "
            "attack made of the update. The leak rate is the share of such images.",
        ),
        (
            "95% confidence interval (CI)",
            "The range in which the true share lies with 95% confidence, given how many updates were "
            "attacked: the fewer, the wider.",
        ),
        (
            "Defense",
            "What clients do to updates before they send them, or the server to what it passes on. "
            f"Tried here: {_tried(summary)}.",
        ),
        (
            "Accuracy",
            "How often the trained model names the right class of images that no client holds: what the "
            "defense costs.",
        ),
        (
            "Positive and negative control",
            "The positive control shows whether the attack can succeed at all with this model; the negative "
            "control shows what somebody reaches who guesses without any update.",
        ),
    ]
    if guarantees:
        terms.append(
            (
                "Epsilon and delta",
                "The guarantee of differential privacy: the data of one client (or one image, as the defense "
                "says) changes the probability of whatever an attacker may see by a factor of at most e to "
                "the power of epsilon, except with a probability of delta. Smaller is stronger; an epsilon "
                "above about 10 promises little.",
            )
        )
    return [*terms, *_measures(summary)]


def _tried(summary: Summary) -> str:
    tried = [defense.name for defense in summary.defenses if not defense.baseline]
    return listing(tried) if tried else "none"


def _measures(summary: Summary) -> list[tuple[str, str]]:
    """Each measure, the one that decides first."""
    decides = summary.recognisability.metric
    measured = [metric for metric in summary.metrics if metric.unavailable is None and metric.description]
    measured.sort(key=lambda metric: (metric.name != decides, not metric.brief))
    return [
        (
            metric.label,
            f"{metric.description} {metric.better.capitalize()} means closer to the original."
            + (" It decides what counts as recognisable." if metric.name == decides else ""),
        )
        for metric in measured
    ]
