"""What the tests of defenses inside training share: specs, a tiny model, a client."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_audit.core.training import Batch, Learner, Training
from tests.federation.toy import Net

TRAINING = [
    *("ats", "ats:3-1-7", "ats:43-18-18", "dp-sgd", "freeze-bn", "local-steps:3", "mixup"),
    *("precode:size=8", "soteria:0.5"),
]
CLASSES = 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def net(seed: int = 0) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net(3, 64, CLASSES)


def learner(model: nn.Module, *, images: int = 5, lr: float = 0.5, **training: object) -> Learner:
    pixels = torch.rand(images, 3, 8, 8, generator=generator(1))
    labels = torch.randint(CLASSES, (images,), generator=generator(2))
    settings = Training(learning_rate=lr, **training)  # type: ignore[arg-type]
    return Learner(model, torch.optim.SGD(model.parameters(), lr=lr), settings, pixels, labels, CLASSES)


def batch_of(who: Learner, count: int = 3) -> Batch:
    return Batch(who.images[:count], who.labels[:count], who.images[:count])


def gradients(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    loss = functional.cross_entropy(model(batch.images), batch.labels)
    names = [name for name, _ in model.named_parameters()]
    return dict(zip(names, torch.autograd.grad(loss, list(model.parameters())), strict=True))


def linear_net(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 10), nn.Linear(10, CLASSES))
