"""Architectures by name: the field's own, torchvision's, and yours (``module:function``).

Every model maps images ``(N, C, H, W)``, float32 in [0, 1], grey or colour, to logits. Where pixels are
normalised that is the model's first layer, without parameters, so that it is never part of an update.
"""

from fl_audit.core.discover import import_modules
from fl_audit.models._blocks import Normalize
from fl_audit.models._registry import models

import_modules(__name__, __path__)

__all__ = ["Normalize", "models"]
