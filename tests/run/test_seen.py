"""What is read off an update, on updates made by hand."""

from pathlib import Path

import pytest
import torch

from fl_audit.core.captures import write_truth, write_update
from fl_audit.core.types import CaptureKey, GroundTruth, TrainingDetails, Update
from fl_audit.models import models
from fl_audit.run.config import RunConfig
from fl_audit.run.folder import RunFolder
from fl_audit.run.grants import grant, write_grant
from fl_audit.run.load import dump_config, resolve_config
from fl_audit.run.seen import batch_norm, look_at_captures, seen_by_client, seen_file, update_norm

KEY = CaptureKey("none", 1, 0)
SENT = {
    "weight": torch.zeros(3),
    "bn.running_mean": torch.tensor([3.0, 4.0]),
    "bn.running_var": torch.ones(2),
    "bn.num_batches_tracked": torch.tensor(5),
}


def update(**changes: torch.Tensor) -> Update:
    received = SENT | {"weight": torch.tensor([3.0, 0.0, 4.0])}
    return Update(KEY, 1, SENT, received | {name.replace("__", "."): v for name, v in changes.items()})


def test_the_norm_leaves_statistics_out_and_says_why_there_is_none() -> None:
    moved = update(bn__running_mean=torch.tensor([30.0, 40.0]))
    assert update_norm(moved, None) == (5.0, None)
    gradient = Update(KEY, 1, {"w": torch.ones(2)}, {"w": torch.tensor([3.0, 4.0])})
    assert update_norm(gradient, "gradient")[0] == 5.0
    assert update_norm(gradient, "weights")[0] == pytest.approx(13**0.5, rel=1e-5)
    norm, why = update_norm(update(weight=torch.tensor([float("nan"), 0, 0])), None)
    assert norm is None
    assert why == "the update holds NaN or inf"
    norm, why = update_norm(Update(KEY, 1, SENT, {"weight": torch.zeros(4)}), None)
    assert norm is None
    assert "no array came back" in str(why)
    assert update_norm(Update(KEY, 1, SENT, {}, error="boom"), None)[0] is None


def test_statistics_that_came_back_and_how_far_they_moved() -> None:
    still, _ = batch_norm(update())
    assert still is not None
    assert (still.sent, still.came, still.moved, still.furthest, still.steps) == (2, 2, 0, None, 0)
    # From (3, 4), of length 5, by (0, 1): a fifth. The counter went from 5 to 8.
    moved, _ = batch_norm(
        update(bn__running_mean=torch.tensor([3.0, 5.0]), bn__num_batches_tracked=torch.tensor(8))
    )
    assert moved is not None
    assert (moved.moved, moved.furthest, moved.steps) == (1, 0.2, 3)
    gone, _ = batch_norm(Update(KEY, 1, SENT, {"weight": torch.ones(3)}))
    assert gone is not None
    assert gone.came == 0
    assert batch_norm(Update(KEY, 1, {"w": torch.ones(1)}, {"w": torch.ones(1)})) == (
        None,
        "the model has no batch norm with running statistics",
    )


def run_folder(root: Path, config: RunConfig, *, trace: bool = False) -> RunFolder:
    """One honest step on two images of classes 1 and 0, and one client that sends a stack trace."""
    folder = RunFolder.create(root)
    folder.config.write_text(dump_config(config))
    torch.manual_seed(0)
    net = models.create(config.model).build((1, 25, 25), 2)
    sent = {name: value.clone() for name, value in net.state_dict().items()}
    images, labels = torch.rand(2, 1, 25, 25), torch.tensor([1, 0])
    torch.nn.functional.cross_entropy(net(images), labels).backward()  # type: ignore[no-untyped-call]
    torch.optim.SGD(net.parameters(), lr=0.1).step()
    received = {name: value.detach().clone() for name, value in net.state_dict().items()}
    details = TrainingDetails(learning_rate=0.1, local_steps=1, batch_size=2)
    truth = GroundTruth(images, labels, torch.zeros(2, dtype=torch.int64), torch.arange(2), details)
    metrics = {"num-examples": 2, "train-loss": 0.7}
    write_update(folder.captures, Update(KEY, 1, sent, received, {}, metrics))
    write_truth(folder.truth, KEY, truth)
    granted = grant(config.threat, truth, model=config.model, num_classes=2, image_shape=(1, 25, 25))
    write_grant(folder.knowledge_file(KEY), granted)
    if trace:
        text = 'Traceback (most recent call last):\n  File "/home/anna/client.py", line 3\nValueError: 17'
        write_update(folder.captures, Update(CaptureKey("none", 1, 1), 2, sent, {}, {}, {}, error=text))
    return folder


def test_labels_are_inferred_without_the_truth_and_compared_by_the_grader(tmp_path: Path) -> None:
    config = resolve_config(None, {})
    folder = run_folder(tmp_path / "run", config, trace=True)
    (folder.truth / "none").rename(tmp_path / "sealed")
    look_at_captures(folder, config, torch.device("cpu"))
    alone = seen_by_client(folder, "none")[0][0]
    assert alone.labels == [1, 1]
    assert alone.labels_match is None
    assert (alone.num_examples, alone.metrics["train-loss"]) == (2, 0.7)
    (tmp_path / "sealed").rename(folder.truth / "none")
    seen = seen_by_client(folder, "none")
    match = seen[0][0].labels_match
    assert match is not None
    assert (match.right, match.images, match.exact) == (2, 2, True)
    failed = seen[1][0]
    assert failed.stack_trace
    assert failed.labels is None
    assert set(failed.unmeasured) == {"update_norm", "batch_norm", "labels"}


def test_what_is_not_granted_or_was_not_looked_at_has_its_reason(tmp_path: Path) -> None:
    config = resolve_config(None, {"threat.level": "A", "threat.labels": False})
    folder = run_folder(tmp_path / "run", config)
    before = seen_by_client(folder, "none")[0][0]
    assert "fl-audit attack RUN" in before.unmeasured["update_norm"]
    look_at_captures(folder, config, torch.device("cpu"))
    seen = seen_by_client(folder, "none")[0][0]
    assert seen.update_norm is not None
    assert "does not grant the architecture" in seen.unmeasured["labels"]
    seen_file(folder, KEY).write_text('{"round": "<script>"}')
    assert "not what was seen of an update" in seen_by_client(folder, "none")[0][0].unmeasured["labels"]
