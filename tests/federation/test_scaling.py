"""A step that mixed precision leaves out holds no image."""

import torch
from torch.amp import GradScaler
from torch.nn import functional

from fl_audit.core.types import GroundTruth
from fl_audit.federation._clipping import clipping_told
from fl_audit.federation._scaling import skipped_told
from fl_audit.federation.witness import Witness, report_clipping, report_skipped
from tests.federation.witness_cases import IMAGES, LABELS, network, sgd


def test_batches_of_steps_that_were_left_out_are_not_trained_on() -> None:
    plain = GradScaler.step
    model = network()
    optimizer = sgd(model)
    scaler = GradScaler("cpu", init_scale=2.0**12)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with clipping_told(report_clipping), skipped_told(report_skipped), Witness() as witness:
        for row, factor in enumerate((1e38, 1e38, 1.0, 1.0)):  # the first two overflow
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(IMAGES[[row]]), LABELS[[row]])
            torch.autograd.backward(scaler.scale(loss * factor))
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
            if row == 1:
                assert all(map(torch.equal, model.parameters(), before))
    truth = witness.truth()
    assert isinstance(truth, GroundTruth)
    assert torch.equal(truth.images, IMAGES[2:4])
    assert truth.steps.tolist() == [0, 1]
    assert (truth.training.local_steps, truth.training.clip_norm) == (2, 0.5)
    assert GradScaler.step is plain
