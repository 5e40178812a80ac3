"""customstrategy: A Flower / PyTorch app with its own strategy."""

import time
from collections.abc import Callable, Iterable
from logging import INFO
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result


class DecayingFedAvg(FedAvg):
    """FedAvg with a loop of its own and a learning rate that decays from round to round."""

    def __init__(self, fraction_train: float, decay: float) -> None:
        super().__init__(fraction_train=fraction_train, fraction_evaluate=0.0)
        self.decay = decay

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run the federation: send, receive, average, evaluate."""
        lr = cast(float, (train_config or ConfigRecord())["lr"])
        arrays, result = initial_arrays, Result()
        for server_round in range(1, num_rounds + 1):
            log(INFO, "[ROUND %s/%s] learning rate %.4f", server_round, num_rounds, lr)
            content = RecordDict(
                {"arrays": arrays, "config": ConfigRecord({"lr": lr, "server-round": server_round})}
            )
            messages = [
                Message(content=content, message_type=MessageType.TRAIN, dst_node_id=node_id)
                for node_id in self.choose_nodes(grid)
            ]
            replies = list(grid.send_and_receive(messages, timeout=timeout))
            arrays = self.average([reply for reply in replies if not reply.has_error()], arrays)
            result.arrays = arrays
            if evaluate_fn and (metrics := evaluate_fn(server_round, arrays)) is not None:
                log(INFO, "\tglobal evaluation: %s", metrics)
                result.evaluate_metrics_serverapp[server_round] = metrics
            lr *= self.decay
        return result

    def choose_nodes(self, grid: Grid) -> list[int]:
        """Wait for the nodes, then pick a share of them."""
        while len(node_ids := sorted(grid.get_node_ids())) < self.min_available_nodes:
            time.sleep(0.5)
        num_nodes = max(self.min_train_nodes, int(self.fraction_train * len(node_ids)))
        chosen = np.random.default_rng().choice(len(node_ids), size=num_nodes, replace=False)
        return [node_ids[i] for i in chosen]

    def average(self, replies: Iterable[Message], arrays: ArrayRecord) -> ArrayRecord:
        """Average the models of the clients, weighted by their numbers of examples."""
        contents = [reply.content for reply in replies]
        if not contents:
            return arrays
        weights = np.array(
            [cast(float, c.metric_records["metrics"]["num-examples"]) for c in contents], dtype=np.float64
        )
        weights /= weights.sum()
        averaged = {}
        for name, old in arrays.items():
            stacked = np.stack([c.array_records["arrays"][name].numpy() for c in contents], dtype=np.float64)
            # Integer buffers (num_batches_tracked) keep their type
            averaged[name] = Array(
                np.asarray(np.tensordot(weights, stacked, axes=1), dtype=old.numpy().dtype)
            )
        return ArrayRecord(averaged)
