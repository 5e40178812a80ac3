"""Ground truth from client to grader: over a private query on the raw grid, into the sealed folder.

Nothing rides on train messages. The wrapped client keeps the truth of its latest round in its own Flower
context until the query takes it; the recording grid never sees that query.
"""

import json
from dataclasses import asdict
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from pydantic import TypeAdapter
from torch import Tensor

from fl_audit.core.errors import FederationError
from fl_audit.core.types import GroundTruth, TrainingDetails

HELLO = "query.fl_audit_hello"
TAKE_TRUTH = "query.fl_audit_truth"
FORGET_TRUTH = "query.fl_audit_forget"
ARRAYS, FACTS = "fl-audit.truth", "fl-audit.facts"
_TRAINING = TypeAdapter(TrainingDetails)


def pack(truth: GroundTruth | str, server_round: int) -> dict[str, ArrayRecord | ConfigRecord]:
    """Records that carry one truth, or the reason why there is none."""
    if isinstance(truth, str):
        return {FACTS: ConfigRecord({"round": server_round, "reason": truth})}
    arrays = {"images": truth.images, "labels": truth.labels, "steps": truth.steps, "indices": truth.indices}
    facts = ConfigRecord({"round": server_round, "training": json.dumps(asdict(truth.training))})
    return {ARRAYS: ArrayRecord(arrays), FACTS: facts}


def unpack(content: RecordDict, server_round: int) -> GroundTruth | str:
    """The truth of ``server_round`` in a reply, or why there is none."""
    facts = content.config_records.get(FACTS)
    if facts is None:
        return "the client recorded none"
    if facts.get("round") != server_round:
        return f"the client recorded that of round {facts.get('round')!r} instead"
    if "reason" in facts:
        return str(facts["reason"])
    tensors: dict[str, Tensor] = dict(content.array_records[ARRAYS].to_torch_state_dict())
    return GroundTruth(training=_TRAINING.validate_json(str(facts["training"])), **tensors)


def hello(grid: Grid, node_ids: list[int], timeout: float) -> dict[int, int]:
    """Ask every node over the raw grid which partition it holds.

    Raises:
        FederationError: a node gave no answer.
    """
    found = {
        reply.metadata.src_node_id: int(_int(reply.content.config_records[FACTS]["partition-id"]))
        for reply in _ask(grid, node_ids, HELLO, timeout)
        if reply.has_content()
    }
    if len(found) < len(node_ids):
        raise FederationError(
            f"{len(node_ids) - len(found)} of {len(node_ids)} clients did not answer within {timeout:g} s"
        )
    return found


def take(grid: Grid, rounds: dict[int, int], timeout: float) -> dict[int, GroundTruth | str]:
    """The truth of each node's latest round (``rounds``: node id to server round), or why there is none."""
    found: dict[int, GroundTruth | str] = {node: "the client gave no answer" for node in rounds}
    for reply in _ask(grid, list(rounds), TAKE_TRUTH, timeout):
        node = reply.metadata.src_node_id
        if reply.has_content():
            found[node] = unpack(reply.content, rounds[node])
        else:
            found[node] = f"the client failed to give it: {reply.error.reason}"
    return found


def forget(grid: Grid, node_ids: list[int], timeout: float) -> None:
    """Let clients drop the truth of their latest round, so that memory does not grow with their number."""
    if node_ids:
        _ask(grid, node_ids, FORGET_TRUTH, timeout)


def locate(truth: GroundTruth, images: Tensor) -> GroundTruth:
    """Fill in ``indices``: the position of each image among ``images``, -1 where it is none of them."""
    rows = {image.numpy().tobytes(): row for row, image in reversed(list(enumerate(images.contiguous())))}
    indices = [rows.get(image.contiguous().numpy().tobytes(), -1) for image in truth.images]
    return GroundTruth(
        images=truth.images,
        labels=truth.labels,
        steps=truth.steps,
        indices=torch.tensor(indices, dtype=torch.int64),
        training=truth.training,
    )


def _ask(grid: Grid, node_ids: list[int], kind: str, timeout: float) -> list[Message]:
    messages = [Message(RecordDict(), node, kind) for node in node_ids]
    return list(grid.send_and_receive(messages, timeout=timeout))


def _int(value: Any) -> int:
    if not isinstance(value, int):
        raise FederationError(f"a client answered {value!r} when asked for its partition, expected a number")
    return value
