"""Which well-formed replies would still stop a Flower strategy by the metrics that they carry."""

import math
from collections import Counter
from collections.abc import Sequence

from flwr.app import Message

Signature = tuple[tuple[str, int], ...]


def misfits(replies: Sequence[Message], weight: str = "num-examples") -> dict[int, str]:
    """Why a reply does not fit its batch, by ``id`` of the reply.

    Flower aborts the whole run when the metric names of two replies differ, and averages with whatever
    weight a client names. So the weight must be a finite positive number, and the names and lengths of
    the metrics those of most replies.
    """
    reasons: dict[int, str] = {}
    signatures: dict[int, Signature] = {}
    for reply in replies:
        if not reply.has_content():
            continue
        problem = _problem(reply, weight)
        if problem is not None:
            reasons[id(reply)] = problem
        else:
            signatures[id(reply)] = _signature(reply)
    if signatures:
        common, _ = Counter(signatures.values()).most_common(1)[0]
        for reply_id, signature in signatures.items():
            if signature != common:
                expected = ", ".join(name for name, _ in common)
                reasons[reply_id] = f"its metrics differ from those of the others, which are: {expected}"
    return reasons


def _problem(reply: Message, weight: str) -> str | None:
    records = list(reply.content.metric_records.values())
    if len(records) != 1:
        return f"expected one metric record, got {len(records)}"
    value = records[0].get(weight)
    if not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        return f"expected a positive number of examples as {weight!r}"
    if len(reply.content.array_records) > 1:
        return f"expected one array record, got {len(reply.content.array_records)}"
    return None


def _signature(reply: Message) -> Signature:
    record = next(iter(reply.content.metric_records.values()))
    return tuple(
        sorted((name, len(value) if isinstance(value, list) else -1) for name, value in record.items())
    )
