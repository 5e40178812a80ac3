"""Per-example gradients, clipped and noised: Opacus at work on a model of any make. Slow to import.

Opacus hooks every layer with parameters (`GradSampleModule`) and does the arithmetic of DP-SGD in
`DPOptimizer`; here is what it takes to apply both to models as they are.
"""

from typing import Any

import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from opacus.validators import ModuleValidator
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fl_audit.core.errors import ConfigError
from fl_audit.strategies.defenses._layers import replace_layers


def private_architecture(model: nn.Module, who: str) -> nn.Module:
    """The model with every layer that mixes examples replaced as Opacus does: batch norm by group norm.

    Raises:
        ConfigError: a layer is left that per-example gradients do not exist for.
    """
    model, _ = replace_layers(model, _fixed)
    mode = model.training
    model.train()
    errors = [*ModuleValidator.validate(model), *GradSampleModule.validate(model, strict=False)]
    model.train(mode)
    if errors:
        raise ConfigError(
            f"defense {who!r}: Opacus has no per-example gradients for this model ({errors[0]}). Choose "
            "another model"
        )
    return model


def _fixed(module: nn.Module) -> nn.Module | None:
    fixer = ModuleValidator.FIXERS.get(type(module))
    replaced = None if fixer is None else fixer(module)
    return replaced if isinstance(replaced, nn.Module) and replaced is not module else None


class PerExampleModel(GradSampleModule):  # type: ignore[misc]  # opacus leaves it untyped
    """Opacus's wrapper for models whose layers change the output of others in place.

    Opacus's hooks forbid that, e.g. the sum of a residual block. Such an operation is done out of place,
    which is the same wherever its result is used; that it is, is verified on one image.

    Raises:
        ConfigError: it is not the same for this model.
    """

    def __init__(self, model: nn.Module, image: Tensor, who: str) -> None:
        with torch.no_grad():
            mode = model.training
            expected = model.eval()(image)
            model.train(mode)
        # Opacus looks at the layers with weights; their mode means nothing once batch norm is gone.
        for module in model.modules():
            module.training = module.training or bool(module._parameters)
        was = model.training
        model.training = True
        super().__init__(model, batch_first=True, loss_reduction="mean")
        model.training = self.training = was or bool(model._parameters)
        if not torch.allclose(self._plain(image), expected, rtol=1e-4, atol=1e-5):
            raise ConfigError(
                f"defense {who!r}: the model gives other outputs once Opacus has hooked its layers, so "
                "it cannot be trained with per-example gradients. Choose another model"
            )

    def forward(self, images: Tensor) -> Any:
        """The model's output. The images count as differentiable: torch warns of hooks on layers without."""
        with _OutOfPlace():
            return super().forward(images.detach().requires_grad_(torch.is_grad_enabled()))

    def _plain(self, image: Tensor) -> Tensor:
        """One output without dropout, with the hooks at work and nothing kept of it."""
        dropouts = [m for m in self.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.training]
        for module in dropouts:
            module.training = False
        self.disable_hooks()
        with torch.enable_grad():
            output: Tensor = self(image).detach()
        self.enable_hooks()
        for module in dropouts:
            module.training = True
        return output


class _OutOfPlace(TorchFunctionMode):
    """Operations that would change a hooked layer's output in place return a new tensor instead."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("inplace"):
            kwargs["inplace"] = False
        name = getattr(func, "__name__", "")
        if name.endswith("_") and not name.endswith("__") and args and _hooked(args[0]):
            func = getattr(Tensor, name[:-1], func)
        return func(*args, **kwargs)


def _hooked(value: Any) -> bool:
    return isinstance(value, Tensor) and type(value.grad_fn).__name__ == "BackwardHookFunctionBackward"


class NoisyOptimizer(DPOptimizer):  # type: ignore[misc]  # opacus leaves it untyped
    """Opacus's optimiser; a step whose draw was empty, as in Poisson sampling, is one of noise alone."""

    def pre_step(self, closure: Any = None) -> Any:
        """Clip, sum, add noise, scale; parameters that no example touched have gradients of zero."""
        drawn = [p.grad_sample for p in self.params if p.grad_sample is not None]
        count = len(drawn[0]) if drawn else 0
        for parameter in self.params:
            if parameter.grad_sample is None:
                parameter.grad_sample = parameter.new_zeros((count, *parameter.shape))
        return super().pre_step(closure)
