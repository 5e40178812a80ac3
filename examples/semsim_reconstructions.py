"""Make real reconstructions for training SemSim: many small gradient inversions at once.

    python examples/semsim_reconstructions.py --data DIR --out RECONSTRUCTIONS --rounds 60
    python -m fl_audit.semsim.recipe --data DIR --reconstructions RECONSTRUCTIONS --out WEIGHTS

DIR holds cifar10-jpeg.zip and caltech101-64.zip. Each round draws a network (LeNet, narrow ConvNets and
ResNets of fl_audit.models, and small random ones, fresh or briefly trained), a defense (none, Gaussian noise,
pruning), a batch size, a prior and a start, inverts 64 updates side by side with the objective of inverting
gradients (cosine distance, total variation, signed Adam) or of deep leakage (squared distance), and keeps
what it has after 15, 40, 100 ... iterations. It differs from ``fl-audit attack`` in that each problem's
gradient comes from per-image outer products, so that different clients share one batch. Each shard holds
uint8 ``(N, 3, 32, 32)``: ``original``, ``victim`` (what the client trained on: the original after its own
transformation) and ``reconstruction``, ``kept``: how much of the original is left in the victim, and
``visible``: the share of it in the frame. Its header says where it came from: ``architecture``, ``attack``,
``state`` and ``data_set``, so that one of them can be left out of a training (examples/semsim_ablations.py).
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from _semsim_networks import Picker, small_network
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, unfold

from fl_audit.core.files import write_tensors
from fl_audit.core.seeding import seeded_globals, torch_generator
from fl_audit.models import models
from fl_audit.semsim.material import picture_sets
from fl_audit.semsim.pictures import Pictures, as_uint8
from fl_audit.semsim.structure import transform_grade
from fl_audit.semsim.transforms import random_transform

SNAPSHOTS = (8, 15, 40, 100, 200)
ARCHITECTURES = (
    "lenet",
    "convnet:width=4",
    "resnet20-4:factor=1",
    "small",
    "small",
    "small",
    "small",
    "small",
)


@dataclass(frozen=True)
class Setting:
    """What one round of inversions does."""

    architecture: str
    trained: int
    batch: int
    noise: float
    prune: float
    tv: float
    cosine: bool
    iterations: int
    start: str
    step: float

    def facts(self, pictures: Pictures) -> dict[str, str]:
        """Where a shard came from."""
        return {
            "architecture": self.architecture.partition(":")[0],
            "attack": "inverting gradients" if self.cosine else "deep leakage",
            "state": "trained" if self.trained else "fresh",
            "data_set": pictures.name,
        }


def main() -> int:
    """Write one shard for each round."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--problems", type=int, default=64, help="images inverted at once; a multiple of 4")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sets, _ = picture_sets(options.data)
    for number in range(options.first, options.first + options.rounds):
        generator = torch_generator(options.seed, "reconstructions", number)
        setting = draw_setting(generator)
        pictures = sets[int(torch.randint(len(sets), (1,), generator=generator))]
        shard = invert(setting, pictures, generator, options.problems)
        facts = {**setting.facts(pictures), "setting": repr(setting)}
        write_tensors(options.out / f"{number:04d}.safetensors", shard, facts)
        sys.stderr.write(f"{number}: {len(shard['original'])} images, {setting}\n")
    return 0


def draw_setting(generator: torch.Generator) -> Setting:
    """A random setting."""
    pick = Picker(generator)
    architecture = pick(ARCHITECTURES)
    slow = architecture.startswith(("convnet", "resnet"))
    return Setting(
        architecture=architecture,
        trained=pick((0, 0, 20, 60)),
        batch=pick((1, 1, 1, 2, 2, 4)),
        # Mostly light defenses: with more, three rounds of four held nothing recognisable.
        noise=pick((0.0, 0.0, 0.0, 0.0, 0.03, 0.1, 0.3, 1.0)),
        prune=pick((0.0, 0.0, 0.0, 0.0, 0.7, 0.7, 0.9)),
        tv=pick((0.001, 0.01, 0.01, 0.05, 0.2)),
        cosine=pick((True, True, True, True, True, False)),
        iterations=15 if slow else pick((100, 100, 200)),
        start=pick(("normal", "uniform", "grey")),
        step=pick((0.03, 0.1, 0.1, 0.2)),
    )


def invert(
    setting: Setting, pictures: Pictures, generator: torch.Generator, problems: int
) -> dict[str, Tensor]:
    """Run one round; originals, victims and reconstructions of every snapshot."""
    model = build(setting, pictures, generator)
    rows = torch.randint(len(pictures.images), (problems,), generator=generator)
    originals, labels = pictures.floats(rows), pictures.classes[rows]
    transformed = random_transform(originals, generator, share=0.5)
    victims, kept = transformed.images, transform_grade(transformed)
    observed = defend(updates(model, victims, labels, setting.batch, graph=False), setting, generator)
    found: dict[str, list[Tensor]] = {"original": [], "victim": [], "reconstruction": []}
    for snapshot in optimise(model, observed, labels, setting, generator):
        for name, images in (("original", originals), ("victim", victims), ("reconstruction", snapshot)):
            found[name].append(as_uint8(images))
    shard = {name: torch.cat(parts) for name, parts in found.items()}
    stages = len(shard["original"]) // problems
    return shard | {"kept": kept.repeat(stages), "visible": transformed.visible.repeat(stages)}


def build(setting: Setting, pictures: Pictures, generator: torch.Generator) -> nn.Module:
    """The client's network, trained for some steps if the setting says so, in eval mode."""
    classes = int(pictures.classes.max()) + 1
    with seeded_globals(int(torch.randint(2**31, (1,), generator=generator)), "weights"):
        if setting.architecture == "small":
            model = small_network(classes, generator)
        else:
            model = models.create(setting.architecture).build((3, 32, 32), classes)
    model.train()
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(setting.trained):
        rows = torch.randint(len(pictures.images), (64,), generator=generator)
        loss = cross_entropy(model(pictures.floats(rows)), pictures.classes[rows])
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()
    return model.eval().requires_grad_(False)


def updates(model: nn.Module, images: Tensor, labels: Tensor, batch: int, *, graph: bool) -> list[Tensor]:
    """Gradients of convolutions and linear layers for each ``batch`` images, ``(N / batch, ...)``."""
    kept: list[tuple[nn.Module, Tensor, Tensor]] = []

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        output = output if output.requires_grad else output.requires_grad_()
        kept.append((layer, inputs[0], output))
        return output

    parts = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(keep) for layer in parts]
    try:
        loss = cross_entropy(model(images), labels, reduction="sum")
    finally:
        for hook in hooks:
            hook.remove()
    outputs = torch.autograd.grad(loss, [output for _, _, output in kept], create_graph=graph)
    found = []
    for (layer, inputs, _), out in zip(kept, outputs, strict=True):
        if isinstance(layer, nn.Conv2d):
            padding = layer.padding if isinstance(layer.padding, tuple) else (0, 0)
            patches = unfold(inputs, layer.kernel_size, padding=padding, stride=layer.stride)
            weight = out.flatten(2) @ patches.transpose(1, 2)
            bias = out.sum((2, 3))
        else:
            weight, bias = out[:, :, None] * inputs[:, None, :], out
        own = [weight.flatten(1)] if layer.bias is None else [weight.flatten(1), bias]
        rows = torch.cat(own, 1)
        found.append(rows.reshape(-1, batch, rows.shape[1]).mean(1))
    return found


def defend(update: list[Tensor], setting: Setting, generator: torch.Generator) -> list[Tensor]:
    """Prune each layer's smallest entries, then add noise relative to the update's root mean square."""
    result = []
    total = torch.cat([part.detach() for part in update], 1)
    scale = total.square().mean(1, keepdim=True).sqrt()
    for part in update:
        part = part.detach()
        if setting.prune:
            level = part.abs().quantile(setting.prune, dim=1, keepdim=True)
            part = torch.where(part.abs() >= level, part, 0)
        result.append(part + setting.noise * scale * torch.randn(part.shape, generator=generator))
    return result


def optimise(
    model: nn.Module, observed: list[Tensor], labels: Tensor, setting: Setting, generator: torch.Generator
) -> Iterator[Tensor]:
    """Images ``(N, 3, 32, 32)`` after 8, 15, 40 ... iterations of signed Adam with step decay."""
    shape = (len(labels), 3, 32, 32)
    if setting.start == "normal":
        guess = (0.5 + 0.25 * torch.randn(shape, generator=generator)).clamp(0, 1)
    elif setting.start == "uniform":
        guess = torch.rand(shape, generator=generator)
    else:
        guess = 0.5 + 0.01 * torch.randn(shape, generator=generator)
    first, second = torch.zeros(shape), torch.zeros(shape)
    target = torch.cat(observed, 1)
    for step in range(1, setting.iterations + 1):
        guess = guess.detach().requires_grad_()
        simulated = torch.cat(updates(model, guess, labels, setting.batch, graph=True), 1)
        if setting.cosine:
            distance = 1 - torch.cosine_similarity(simulated, target, dim=1)
        else:
            distance = (simulated - target).square().sum(1) / target.square().sum(1)
        tv = (guess.diff(dim=2).abs().mean((1, 2, 3)) + guess.diff(dim=3).abs().mean((1, 2, 3))).sum()
        (slope,) = torch.autograd.grad(distance.sum() + setting.tv * tv, guess)
        slope = slope.sign() if setting.cosine else slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope.square()
        rate = setting.step * 0.1 ** sum(step > share * setting.iterations for share in (3 / 8, 5 / 8, 7 / 8))
        move = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        guess = (guess.detach() - rate * move).clamp(0, 1)
        if step in SNAPSHOTS or step == setting.iterations:
            yield guess.nan_to_num(0.5)


if __name__ == "__main__":
    torch.set_num_threads(1)
    raise SystemExit(main())
