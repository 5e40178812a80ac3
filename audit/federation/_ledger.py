"""What the auditor keeps of a running federation: truth to disk, failures, participation, utility."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from flwr.app import Message
from flwr.serverapp import Grid

from fl_audit.core.captures import write_truth, write_unavailable
from fl_audit.core.errors import FederationError
from fl_audit.core.types import CaptureKey, GroundTruth
from fl_audit.federation.spec import ClientProblem, FederationSpec, RoundUtility
from fl_audit.federation.truth import locate, take
from fl_audit.strategies.recorder import Recorded


class Ledger:
    """Observes the recording grid of one federation (`fl_audit.strategies.Observer`)."""

    def __init__(self, spec: FederationSpec, truth_root: Path) -> None:
        self.failures: list[ClientProblem] = []
        self.truth_unavailable: list[ClientProblem] = []
        self.participation: Counter[int] = Counter()
        self.clients: Mapping[int, int] = {}
        self.utility: list[RoundUtility] = []
        self._accuracies: dict[int, float] = {}
        self._spec = spec
        self._root = truth_root

    def trained(self, grid: Grid, recorded: Sequence[Recorded]) -> None:
        """Note failures and participation, fetch and seal the truth of what was captured.

        Raises:
            FederationError: every client of the round failed.
        """
        for item in recorded:
            self.participation[item.key.client] += item.arrived
            if item.malformed is not None:
                self.failures.append(ClientProblem(item.key.round, item.key.client, item.malformed))
        if all(item.malformed is not None for item in recorded):
            raise FederationError(_all_failed(recorded))
        wanted = {item.node_id: item.key for item in recorded if item.written and item.arrived}
        rounds = {node: key.round for node, key in wanted.items()}
        for node, truth in take(grid, rounds, self._spec.timeout).items() if wanted else ():
            self._seal(wanted[node], truth)

    def evaluated(self, replies: Sequence[Message]) -> None:
        """Keep each client's accuracy on its own test images, for the round that is being evaluated."""
        self._accuracies = {
            self.clients[reply.metadata.src_node_id]: value
            for reply in replies
            if reply.has_content() and (value := _accuracy(reply)) is not None
        }

    def measured(self, number: int, accuracy: float | None, loss: float | None) -> None:
        """Close a round with the server-side utility of the global model."""
        self.utility.append(RoundUtility(number, accuracy, loss, dict(sorted(self._accuracies.items()))))
        self._accuracies = {}

    def _seal(self, key: CaptureKey, truth: GroundTruth | str) -> None:
        if isinstance(truth, str):
            self.truth_unavailable.append(ClientProblem(key.round, key.client, truth))
            write_unavailable(self._root, key, truth)
            return
        images = self._spec.data.images[self._spec.train_indices(key.client)]
        write_truth(self._root, key, locate(truth, images))


def _all_failed(recorded: Sequence[Recorded]) -> str:
    reasons = "; ".join(f"client {item.key.client}: {item.malformed}" for item in recorded[:10])
    more = f"; and {len(recorded) - 10} more" if len(recorded) > 10 else ""
    return f"every client failed in round {recorded[0].key.round}: {reasons}{more}"


def _accuracy(reply: Message) -> float | None:
    for record in reply.content.metric_records.values():
        value = record.get("accuracy")
        if isinstance(value, int | float) and 0 <= value <= 1:
            return float(value)
    return None
