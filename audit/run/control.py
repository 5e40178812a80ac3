"""The positive control: undefended one-image steps of the same model, to prove that the attack has power.

For each attacked round, one SGD step on one held-out image from the very weights that the server sent in
that round; the images are drawn from the half with more contrast. The captures look like any other and go
through the same attack and grading; where even these cannot be reconstructed, "nothing was recognised" says
nothing about the clients.
"""

from collections.abc import Mapping

import torch
from torch.nn.functional import cross_entropy

from fl_audit.attacks.losses import CROSS_ENTROPY
from fl_audit.core.captures import list_captures, read_update, write_truth, write_update
from fl_audit.core.files import write_json
from fl_audit.core.seeding import numpy_generator, seeded_globals
from fl_audit.core.types import CaptureKey, GroundTruth, TrainingDetails, Update
from fl_audit.core.units import ImageData, ModelSpec
from fl_audit.run.config import RunConfig
from fl_audit.run.folder import CONTROL, RunFolder
from fl_audit.run.grants import grant, write_grant
from fl_audit.run.weights import load_weights


def capture_control(
    folder: RunFolder,
    config: RunConfig,
    slug: str,
    data: ImageData,
    pool: torch.Tensor,
    model: ModelSpec,
    *,
    altered_by: str | None = None,
) -> None:
    """Write the control's captures, truth and grants.

    Args:
        folder: the run folder.
        config: seed, rounds, threat model, images of the control.
        slug: the defense whose rounds provide the weights (the baseline where there is one).
        data: the data set.
        pool: indices of the held-out images, int64 ``(M,)``.
        model: the architecture, as that defense has it.
        altered_by: the defense where that is another one than configured.
    """
    chosen = numpy_generator(config.seed, "control").permutation(_with_contrast(data, pool).numpy())
    weights = {key.round: key for key in reversed(list_captures(folder.captures, slug))}
    position = 0
    for number in sorted(weights):
        sent = read_update(folder.captures, weights[number]).sent
        for image in range(config.attack.control_images):
            index = int(chosen[position % len(chosen)])
            position += 1
            key = CaptureKey(CONTROL, number, image)
            update, truth = one_step(key, sent, data, index, model, config)
            write_update(folder.captures, update)
            write_truth(folder.truth, key, truth)
            granted = grant(
                config.threat.model_copy(update={"loss": CROSS_ENTROPY, "sends": None}),
                truth,
                model=config.model,
                num_classes=len(data.classes),
                image_shape=data.image_shape,
                altered_by=altered_by,
            )
            write_grant(folder.knowledge_file(key), granted)
    write_json(
        folder.federation(CONTROL), {"schema_version": 1, "weights_of": slug, "rounds": sorted(weights)}
    )


def _with_contrast(data: ImageData, pool: torch.Tensor) -> torch.Tensor:
    """The half of ``pool`` with more contrast: in a nearly black image there is nothing to recognise."""
    contrast = data.images[pool].flatten(1).std(1)
    return pool[contrast >= contrast.median()]


def one_step(
    key: CaptureKey,
    sent: Mapping[str, torch.Tensor],
    data: ImageData,
    index: int,
    model: ModelSpec,
    config: RunConfig,
) -> tuple[Update, GroundTruth]:
    """One undefended SGD step on image ``index`` from the weights ``sent``, and its truth."""
    weights = dict(sent)
    with seeded_globals(config.seed, "control", key.round, key.client):
        net = model.build(data.image_shape, len(data.classes))
        names = load_weights(net, weights)
        net.train(config.training.train_mode)
        image, label = data.images[index : index + 1], data.labels[index : index + 1]
        rate = config.training.learning_rate
        torch.autograd.backward(cross_entropy(net(image), label))
        torch.optim.SGD(net.parameters(), lr=rate).step()
    state = net.state_dict()
    received = {theirs: state[ours].detach().clone() for ours, theirs in names.items()}
    details = TrainingDetails(
        learning_rate=rate, local_steps=1, batch_size=1, train_mode=config.training.train_mode
    )
    truth = GroundTruth(
        image, label, torch.zeros(1, dtype=torch.int64), torch.tensor([index], dtype=torch.int64), details
    )
    update = Update(key, -1, weights, received, {"server-round": key.round}, {"num-examples": 1})
    return update, truth
