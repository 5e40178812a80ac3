"""The attacker's copy of the client's model: in which mode it runs, and what about it stays unknown."""

from collections.abc import Mapping

from torch import Tensor, nn

from fl_audit.core.types import TrainingDetails

_Norm = nn.modules.batchnorm._NormBase


def train_mode(
    model: nn.Module, change: Mapping[str, Tensor], training: TrainingDetails | None, notes: list[str]
) -> bool:
    """Whether the client ran in train mode: granted, else seen from batch-norm statistics that moved."""
    if training is not None:
        return training.train_mode
    buffers = {
        f"{name}.{kind}".lstrip(".")
        for name, module in model.named_modules()
        if isinstance(module, _Norm) and module.running_mean is not None
        for kind in ("running_mean", "running_var")
    } & set(change)
    if not buffers:
        return False
    moved = any(bool(change[name].any()) for name in buffers)
    notes.append(f"batch-norm statistics {'moved: train' if moved else 'did not move: eval'} mode is assumed")
    return moved


def set_mode(model: nn.Module, *, train: bool) -> None:
    """Eval mode, but for batch norm as the client ran it. Dropout stays off: its masks are unknown."""
    model.eval()
    for module in model.modules():
        if isinstance(module, _Norm) and train:
            # Batch statistics without running ones, so that a simulation changes no buffer. What a client's
            # later steps compute in train mode does not depend on the running ones.
            module.train()
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None


def uses_batch_statistics(model: nn.Module) -> bool:
    """Whether images of one batch see each other, in a model whose mode is set."""
    norms = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return any(norm.training or norm.running_mean is None for norm in norms)


def note_dropout(model: nn.Module, training: TrainingDetails | None, notes: list[str]) -> None:
    """Say so where the client dropped values."""
    dropout = any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in model.modules())
    if dropout and (training is None or training.train_mode):
        notes.append("dropout is off in the simulation: which values the client dropped is unknown")
