"""Batch norm that neither uses nor sends the statistics of a client's batches."""

from torch import nn

from fl_audit.core.errors import ConfigError
from fl_audit.core.units import Defense
from fl_audit.strategies.defenses._layers import replace_layers
from fl_audit.strategies.defenses._registry import defenses


@defenses.register("freeze-bn")
class FreezeBatchNorm(Defense):
    """Keep batch norm in eval mode: its statistics say nothing of a client's images.

    In train mode a batch-norm layer normalises by the mean and variance of the client's batch and sends its
    moved running statistics along, from which those of the batch follow exactly; attacks use them as a strong
    prior (Yin et al., "See through Gradients", CVPR 2021, https://arxiv.org/abs/2104.07586; Huang et al.,
    "Evaluating Gradient Inversion Attacks and Defenses", NeurIPS 2021, https://arxiv.org/abs/2112.00059,
    section 3). Frozen layers normalise by the running statistics as they were sent; their weight and bias are
    trained as ever. The server and an attacker see that nothing moved, so they use the same architecture.

    It costs nothing where a model comes with statistics worth keeping; from random weights they stay at mean
    0 and variance 1, and the layers only scale. Where ``training.train_mode`` is false clients do this
    already.
    """

    acts_on = "training"
    paper = "Huang et al., Evaluating Gradient Inversion Attacks and Defenses, NeurIPS 2021"

    def architecture(self, model: nn.Module) -> nn.Module:
        """The model with every batch norm frozen. Raises ConfigError where there is none."""
        frozen, count = replace_layers(model, _frozen)
        if not count:
            raise ConfigError(
                "defense 'freeze-bn': the model has no batch norm that keeps running statistics, so there is "
                "nothing to freeze. Leave the defense out, or choose another model, e.g. convnet"
            )
        return frozen


class _Frozen:
    """Stays in eval mode."""

    def train(self, mode: bool = True) -> "_Frozen":
        """Eval mode, whatever is asked for."""
        del mode
        return super().train(False)  # type: ignore[misc, no-any-return]  # of the batch norm it is mixed into


class FrozenBatchNorm1d(_Frozen, nn.BatchNorm1d):  # type: ignore[misc]  # train() returns itself
    """`torch.nn.BatchNorm1d` in eval mode for good."""


class FrozenBatchNorm2d(_Frozen, nn.BatchNorm2d):  # type: ignore[misc]
    """`torch.nn.BatchNorm2d` in eval mode for good."""


class FrozenBatchNorm3d(_Frozen, nn.BatchNorm3d):  # type: ignore[misc]
    """`torch.nn.BatchNorm3d` in eval mode for good."""


_KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: FrozenBatchNorm1d,
    nn.BatchNorm2d: FrozenBatchNorm2d,
    nn.BatchNorm3d: FrozenBatchNorm3d,
}


def _frozen(module: nn.Module) -> nn.Module | None:
    """The same layer, frozen; None if it is no batch norm with running statistics."""
    kind = _KINDS.get(type(module))
    if kind is None or not isinstance(module, nn.modules.batchnorm._BatchNorm) or module.running_mean is None:
        return None
    frozen = kind(module.num_features, eps=module.eps, momentum=module.momentum, affine=module.affine)
    frozen.load_state_dict(module.state_dict())
    return frozen.eval()
