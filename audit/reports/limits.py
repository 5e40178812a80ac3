"""What an audit cannot show, said on every report."""

from fl_audit.reports.schema import Summary
from fl_audit.reports.words import listing


def limits(summary: Summary) -> list[str]:
    """The limits of this run, one paragraph each."""
    attacks = listing([attack.name for attack in summary.attacks])
    found = [
        f"Only these attacks were tried: {attacks}. A stronger one, or one with more knowledge, may "
        "recognise images that these did not. Finding no leak is not a proof of safety; a leak "
        "that was found is real.",
        "The server is honest but curious: it reads what it receives and does not change the protocol. A "
        "server that sends manipulated models can learn more, and is out of scope.",
        "The intervals cover which clients and images happened to be drawn. They do not cover other models, "
        "data sets, training lengths, random starts of the attack or other attackers.",
        "The verdict is on whole images. What else could be read off stands in a section of its own; "
        "membership or attributes, which were not looked for, may leak where no image does.",
    ]
    if not summary.recognisability.calibrated:
        found.append(
            f"The rule {summary.recognisability.name!r} stands in for a person's judgement and was not "
            "calibrated on one. Pictures near its threshold deserve a look."
        )
    else:
        found.append(
            f"The rule {summary.recognisability.name!r} stands in for a person's judgement. It is no better "
            "than the labels it was calibrated on, which its model card names. Pictures near its threshold "
            "deserve a look."
        )
    if any(defense.epsilon is not None for defense in summary.defenses):
        found.append(
            "An epsilon bounds what any attacker can learn, whatever this audit found, but only for the unit "
            "of protection it is stated for; a large epsilon bounds little."
        )
    return found
