"""DP-SGD: every example's gradient is clipped and noised in every local step, by Opacus."""

import warnings
from dataclasses import replace
from functools import lru_cache

import torch
from pydantic import Field
from torch import nn

from fl_audit.core.training import Exposure, Learner, Training
from fl_audit.core.units import Defense, PrivacySpent
from fl_audit.strategies.defenses._registry import defenses

_LARGEST = 200.0
"""Epsilon by Rényi accounting beyond which that bound does: the PRV accountant would overflow."""


@defenses.register("dp-sgd")
class DPSGD(Defense):
    """Example-level differential privacy: clip each example's gradient and add noise in every local step.

    Abadi et al., "Deep Learning with Differential Privacy", CCS 2016 (https://arxiv.org/abs/1607.00133),
    algorithm 1, as implemented by Opacus (Yousefpour et al., https://arxiv.org/abs/2109.12298): per-example
    gradients, flat clipping, Gaussian noise of standard deviation ``noise_multiplier * clipping_norm`` on the
    sum, division by the expected batch size. Batch norm, which mixes examples, becomes group norm by Opacus's
    own rule, for server and attacker too.

    What is protected: one training image of one client, against everybody who sees what the client sends, the
    server included. Two data sets are neighbours when one has that image besides (add or remove). **The
    guarantee is for Poisson sampling, so clients do sample so**: every step takes each image with probability
    ``batch_size`` over the client's number of images, independently. A step may take none, and then sends
    noise alone; such an update holds no image, so it has no finding. The number of
    steps is fixed. Epsilon is Opacus's, from its PRV accountant (Gopi, Lee and Wutschitz,
    https://arxiv.org/abs/2106.02848) over all steps of all rounds that a client took part in, and is stated
    for the most exposed client; where it exceeds 200 by Opacus's Rényi accountant, that bound stands.

    A client reports all its images as ``num-examples``, and no training loss: how many it drew, and how they
    fared, would not be covered. The number of its images is taken to be public. Test metrics are not covered.
    The noise comes from a seeded generator in floating point, which is right for an audit that must be
    repeatable and not for a deployment.
    """

    acts_on = "training"
    paper = "Abadi et al., Deep Learning with Differential Privacy, CCS 2016; Opacus"
    # mixup puts an image into several gradients, and Soteria's mask is computed from images without noise.
    excludes = frozenset({"dp-sgd", "mixup", "soteria"})

    noise_multiplier: float = Field(
        default=1.0, gt=0, le=1e6, description="standard deviation of the noise over the clipping norm"
    )
    clipping_norm: float = Field(
        default=1.0, gt=0, description="largest L2 norm of one example's gradient, all layers together"
    )

    def architecture(self, model: nn.Module) -> nn.Module:
        """The model without batch norm. Raises ConfigError where Opacus cannot train it."""
        from fl_audit.strategies.defenses._per_example import private_architecture  # slow to import

        return private_architecture(model, self.name)

    def training(self, training: Training) -> Training:
        """The same with Poisson sampling."""
        return replace(training, sampling="poisson")

    def begin(self, learner: Learner, *, rng: torch.Generator) -> Learner:
        """Let Opacus compute per-example gradients and take the steps."""
        from fl_audit.strategies.defenses._per_example import NoisyOptimizer, PerExampleModel

        device = learner.images.device
        noise = torch.Generator(device).manual_seed(int(torch.randint(2**62, (1,), generator=rng)))
        optimizer = NoisyOptimizer(
            learner.optimizer,
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=self.clipping_norm,
            expected_batch_size=min(learner.training.batch_size, len(learner.images)),
            loss_reduction="mean",
            generator=noise,
        )
        model = PerExampleModel(learner.model, learner.images[:1], self.name)
        return replace(learner, model=model, optimizer=optimizer)

    def example_privacy(self, exposure: Exposure, *, rounds: int, delta: float) -> PrivacySpent:
        """Epsilon at ``delta`` of one image of a client that took part in ``rounds`` rounds."""
        steps = rounds * exposure.steps
        epsilon, accountant = opacus_epsilon(self.noise_multiplier, exposure.rate, steps, delta)
        return PrivacySpent(
            epsilon=epsilon,
            delta=delta,
            unit="one training image of one client (add or remove, Poisson sampling), by its arrays",
            accountant=f"Opacus {accountant}, {steps} steps at sampling rate {exposure.rate:.3g}",
        )


@lru_cache(maxsize=256)
def opacus_epsilon(noise_multiplier: float, rate: float, steps: int, delta: float) -> tuple[float, str]:
    """Opacus's epsilon after so many steps, an upper bound, and which of its accountants gave it.

    Args:
        noise_multiplier: noise standard deviation over the clipping norm, positive.
        rate: probability that a step takes an example, in (0, 1].
        steps: steps in all rounds, at least 0.
        delta: in (0, 1).

    Raises:
        ValueError: an argument is out of range.
    """
    if noise_multiplier <= 0 or not 0 < rate <= 1 or steps < 0 or not 0 < delta < 1:
        raise ValueError(
            "expected noise_multiplier > 0, 0 < rate <= 1, steps >= 0 and 0 < delta < 1, got "
            f"{noise_multiplier}, {rate}, {steps} and {delta}"
        )
    if steps == 0:
        return 0.0, "PRV accountant"
    # slow to import, and only a guarantee needs it
    from opacus.accountants import PRVAccountant, RDPAccountant

    renyi, tight = RDPAccountant(), PRVAccountant()
    history = [(noise_multiplier, rate, steps)]
    renyi.history, tight.history = list(history), list(history)
    with warnings.catch_warnings():  # Opacus: coarse orders, and log 0 at rate 1, which it handles
        warnings.simplefilter("ignore")
        bound = float(renyi.get_epsilon(delta))
        if not bound <= _LARGEST:
            return bound, "Rényi accountant"
        return float(tight.get_epsilon(delta)), "PRV accountant"
