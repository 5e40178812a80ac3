"""modsexample: A Flower / PyTorch app with mods."""

from logging import INFO

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.logger import log

MAX_CHANGE = 0.01  # No weight changes by more than this in a round


def change_limit_mod(msg: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Clip the change of every single weight, and log how many were clipped."""
    received = next(iter(msg.content.array_records.values()))

    # Call the next mod or the app itself
    reply = call_next(msg, context)
    if reply.has_error():
        return reply

    num_clipped = 0
    for key, trained in reply.content.array_records.items():
        limited = {}
        for name, array in trained.items():
            before = received[name].numpy()
            change = array.numpy() - before
            num_clipped += int((np.abs(change) > MAX_CHANGE).sum())
            limited[name] = Array(before + np.clip(change, -MAX_CHANGE, MAX_CHANGE))
        reply.content.array_records[key] = ArrayRecord(limited)
    log(INFO, "change_limit_mod: node %s clipped %s weights", context.node_id, num_clipped)
    return reply
