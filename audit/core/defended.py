"""An architecture as a defense has it."""

from typing import ClassVar

from torch import nn

from fl_audit.core.units import Defense, ModelSpec


class DefendedModel(ModelSpec):
    """The architecture that everybody uses under a defense, built from the one that is configured."""

    name: ClassVar[str] = "defended"

    base: ModelSpec
    defense: Defense

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Build for ``(C, H, W)`` images. Raises ConfigError where the defense cannot act on it."""
        return self.defense.architecture(self.base.build(image_shape, num_classes))
