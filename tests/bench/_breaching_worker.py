"""breaching's side of `against_breaching.py`: run by breaching's own Python, without fl-audit.

Its environment, apart from fl-audit's: ``pip install breaching==0.1.2 torch==2.14.1 torchvision==0.29.1``,
or with the pair of torch and torchvision of our own environment.
Imports and attacks run as released there; nothing in the package is changed or patched. Two of its habits
are worked around here: its server object draws new weights, so payloads are built by hand, and its
``deepleakage`` preset optimises labels jointly and refuses given ones, for which its own error message
prescribes ``attack_type=optimization``.

Reads one JSON request per line from standard input and answers with one JSON line on what was standard
output; breaching prints, so that standard output itself is turned into standard error. Arrays travel as npz
files, by position: state dicts in their order, updates in the order of the parameters.
"""

import json
import os
import sys
import time
import traceback
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)
warnings.filterwarnings("ignore")  # breaching's use of torch.jit and hydra is dated, which says nothing here

import breaching  # type: ignore[import-not-found]  # noqa: E402  # after the redirection: it may print


class Trace:
    """Times and iterates of one attack, taken where it steps its schedule: once in each iteration.

    A snapshot copies one batch of images, microseconds beside an iteration; it is scored afterwards.
    """

    def __init__(self, attacker: Any, every: int) -> None:
        self.every = every
        self.done = 0
        self.times: list[tuple[int, float]] = []
        self.iterates: list[torch.Tensor] = []
        self._build = attacker._init_optimizer
        attacker._init_optimizer = self._begin

    def _begin(self, candidates: list[torch.Tensor]) -> tuple[Any, "Trace"]:
        """Stand in for the attacker's method of this name, and for the schedule it returns."""
        optimizer, self._schedule = self._build(candidates)
        self._candidate = candidates[0]
        return optimizer, self

    def step(self) -> None:
        """Step the schedule and remember."""
        self._schedule.step()
        self.done += 1
        if self.done % self.every == 0:
            self.times.append((self.done, time.perf_counter()))
            self.iterates.append(self._candidate.detach().clone())


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Draw an architecture's weights from a seed and save its state dict."""
    torch.manual_seed(request["seed"])
    model, _ = _model(request)
    np.savez(request["weights"], *[value.numpy() for value in model.state_dict().values()])
    data = _config(request).case.data
    return {
        "mean": list(data.mean),
        "std": list(data.std),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "versions": {
            "breaching": version("breaching"),
            "torch": torch.__version__,
            "python": sys.version.split()[0],
        },
    }


def forward(request: dict[str, Any]) -> dict[str, Any]:
    """Logits of images in [0, 1], and the gradient of the mean cross-entropy, in eval mode."""
    model, loss = _model(request)
    mean, std = _normalisation(request)
    images = torch.from_numpy(np.load(request["images"])["arr_0"])
    logits = model((images - mean) / std)
    gradient = torch.autograd.grad(loss(logits, torch.tensor(request["labels"])), list(model.parameters()))
    np.savez(request["out"], logits.detach().numpy(), *[part.numpy() for part in gradient])
    return {}


def attack(request: dict[str, Any]) -> dict[str, Any]:
    """Attack one update with known labels, one start, batch norm in eval mode.

    What is timed is breaching's whole ``reconstruct``.
    """
    config = _config(request)
    model, loss = _model(request)
    device = torch.device(request["device"])
    model.to(device)
    setup = {"dtype": torch.float, "device": device}
    attacker = breaching.attacks.prepare_attack(model, loss, config.attack, setup)
    trace = Trace(attacker, request["every"])
    update = np.load(request["update"])
    local = request["local"]
    if local is not None:
        local = {**local, "labels": [torch.tensor(labels, device=device) for labels in local["labels"]]}
    payload = {
        "parameters": [parameter.detach() for parameter in model.parameters()],
        "buffers": list(model.buffers()),  # public ones: breaching then attacks in eval mode
        "metadata": config.case.data,
    }
    shared = {
        "gradients": [torch.from_numpy(update[name]).to(device) for name in update.files],
        "buffers": None,
        "metadata": {
            "num_data_points": len(request["labels"]),
            "labels": torch.tensor(request["labels"], device=device),
            "local_hyperparams": local,
        },
    }
    torch.manual_seed(request["seed"])
    start = time.perf_counter()
    reconstruction, stats = attacker.reconstruct([payload], [shared], {})
    seconds = time.perf_counter() - start

    mean, std = _normalisation(request)
    images = [
        (normalised.cpu() * std + mean).clamp(0, 1).numpy()
        for normalised in (reconstruction["data"], *trace.iterates)
    ]
    np.savez(request["out"], images[0], np.stack(images[1:]) if images[1:] else np.zeros(0, np.float32))
    return {
        "seconds": seconds,
        "iterations": trace.done,
        "trace": [(iteration, at - start) for iteration, at in trace.times],
        "converged": bool(np.isfinite(stats["opt_value"])),
    }


def _config(request: dict[str, Any]) -> Any:
    return breaching.get_config(
        overrides=[
            "case=1_single_image_small",
            f"case.model={request['architecture']}",
            *request.get("overrides", ()),
        ]
    )


def _model(request: dict[str, Any]) -> tuple[Any, Any]:
    """The model in eval mode, with the weights of the request where they exist already, and its loss."""
    config = _config(request).case
    model, loss = breaching.cases.construct_model(config.model, config.data, pretrained=False)
    path = Path(request["weights"])
    if path.exists():
        arrays = np.load(path)
        names = model.state_dict()
        if len(names) != len(arrays.files):
            raise ValueError(f"{len(arrays.files)} arrays for {len(names)} entries of the state dict")
        state = zip(names, (torch.from_numpy(arrays[name]) for name in arrays.files), strict=True)
        model.load_state_dict(dict(state))
    return model.eval(), loss


def _normalisation(request: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    data = _config(request).case.data
    return torch.tensor(list(data.mean))[:, None, None], torch.tensor(list(data.std))[:, None, None]


def main() -> None:
    """Answer requests until the input ends; the first argument is the number of threads."""
    torch.set_num_threads(int(sys.argv[1]))
    operations = {"build": build, "forward": forward, "attack": attack}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = operations[request["op"]](request)
        except Exception:  # the other process shows it and stops
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
