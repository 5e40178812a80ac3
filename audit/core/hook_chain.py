"""Several defenses in one client's training, one after the other."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fl_audit.core.training import Batch, Exposure, Learner, Training, TrainingHooks

if TYPE_CHECKING:
    from fl_audit.core.units import Defense, PrivacySpent


class HookChain(TrainingHooks):
    """Every hook of every one of ``members``, left to right. A mixin for what has members."""

    if TYPE_CHECKING:
        members: tuple[Defense, ...]

    def architecture(self, model: nn.Module) -> nn.Module:
        """As the members, one after the other."""
        for member in self.members:
            model = member.architecture(model)
        return model

    @property
    def reshapes(self) -> bool:
        """Whether any member does."""
        return any(member.reshapes for member in self.members)

    @property
    def acts_on_training(self) -> bool:
        """Whether any member does."""
        return any(member.acts_on_training for member in self.members)

    def training(self, training: Training) -> Training:
        """As the members, one after the other."""
        for member in self.members:
            training = member.training(training)
        return training

    def begin(self, learner: Learner, *, rng: torch.Generator) -> Learner:
        """As the members, one after the other, who share the generator."""
        for member in self.members:
            learner = member.begin(learner, rng=rng)
        return learner

    def batch(self, batch: Batch, learner: Learner, *, rng: torch.Generator) -> Batch:
        """As the members, one after the other, who share the generator."""
        for member in self.members:
            batch = member.batch(batch, learner, rng=rng)
        return batch

    def objective(self, loss: Tensor, learner: Learner, batch: Batch) -> Tensor:
        """As the members, one after the other."""
        for member in self.members:
            loss = member.objective(loss, learner, batch)
        return loss

    def gradients(
        self, gradients: Mapping[str, Tensor], learner: Learner, batch: Batch
    ) -> Mapping[str, Tensor]:
        """As the members, one after the other."""
        for member in self.members:
            gradients = member.gradients(gradients, learner, batch)
        return gradients

    def example_privacy(self, exposure: Exposure, *, rounds: int, delta: float) -> "PrivacySpent | None":
        """The smallest epsilon of the members' guarantees: the rest is done to what they protect."""
        found = [m.example_privacy(exposure, rounds=rounds, delta=delta) for m in self.members]
        return min((one for one in found if one is not None), key=lambda one: one.epsilon, default=None)


def check_together(members: Sequence["Defense"]) -> None:
    """Raise ValueError where one member's promise would be void beside another."""
    for place, member in enumerate(members):
        others = {other.name for number, other in enumerate(members) if number != place}
        if member.excludes & others:
            other = sorted(member.excludes & others)[0]
            raise ValueError(
                f"{member.name!r} does not hold together with {other!r}: leave one of the two out"
            )
