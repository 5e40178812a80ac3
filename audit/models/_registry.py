"""The registry of models, apart from the units so that they can import it."""

import difflib

from fl_audit.core.errors import ConfigError
from fl_audit.core.registry import Registry, is_import_spec
from fl_audit.core.units import ModelSpec


def _fallback(spec: str) -> ModelSpec | None:
    """A classification model of torchvision, or ``module:function``, where ``spec`` is no name of ours."""
    # The units register themselves here, so they can only be imported once this module is complete.
    from fl_audit.models.function import ModelFunction
    from fl_audit.models.zoo import TorchvisionModel, torchvision_names

    name, colon, _ = spec.partition(":")
    if name in torchvision_names():
        if colon:
            raise ConfigError(f"model {spec!r}: torchvision's {name} takes no parameters here")
        return TorchvisionModel(architecture=name)
    if not is_import_spec(spec):
        near = difflib.get_close_matches(name, [*models.names(), *torchvision_names()], n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"unknown model {name!r}.{hint} Valid: {', '.join(models.names())}, module:function, or a "
            "classification model of torchvision, e.g. mobilenet_v3_small"
        )
    if difflib.get_close_matches(name, models.names(), n=1):
        return None  # a misspelt name with a parameter: the registry's error shows the near miss
    return ModelFunction(spec=spec)


models: Registry[ModelSpec] = Registry("model", fallback=_fallback)
