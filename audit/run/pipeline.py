"""The pipeline: capture, attack, grade, report. Each stage skips what is finished, so a kill loses little."""

import hashlib
from pathlib import Path

import torch

from fl_audit.core.files import write_text
from fl_audit.core.progress import Progress
from fl_audit.reports import build_reports
from fl_audit.reports.schema import Summary
from fl_audit.run.attack_stage import attack_captures, pick_device
from fl_audit.run.baseline import check_baseline, copy_baseline
from fl_audit.run.check import check_names
from fl_audit.run.config import RunConfig
from fl_audit.run.folder import RunFolder
from fl_audit.run.grade_stage import grade_run
from fl_audit.run.load import dump_config
from fl_audit.run.manifest import write_manifest


def start_run(
    config: RunConfig,
    root: Path,
    command: list[str],
    device: str | None = None,
    baseline_from: Path | None = None,
) -> RunFolder:
    """Check everything the configuration names, then make the run folder.

    Args:
        config: the resolved configuration.
        root: a new or empty folder.
        command: the command line, for the manifest.
        device: overrides the configured one.
        baseline_from: a run whose undefended baseline and controls are taken over.

    Raises:
        ConfigError: a name, a number, a folder or that other run is wrong; nothing was written.
    """
    from fl_audit.federation import defended_strategy

    part = config.federation
    for defense in check_names(config).defenses.values():
        defended_strategy(
            part.strategy,
            defense,
            clients=part.clients,
            fraction=part.fraction,
            learning_rate=config.training.learning_rate,
        )
    chosen = pick_device(device or config.attack.device)
    source = None if baseline_from is None else check_baseline(config, baseline_from)
    folder = RunFolder.create(root)
    text = dump_config(config)
    write_text(folder.config, text)
    run_id = hashlib.sha256(text.encode()).hexdigest()[:12]
    write_manifest(folder.manifest, config, run_id, command, str(chosen))
    if source is not None:
        copy_baseline(source, folder, config)
    return folder


def finish_run(folder: RunFolder, progress: Progress, device: str | None = None) -> Summary:
    """Do every stage that is not finished; for a new run that is all of them.

    Raises:
        AuditError: the federation failed; what it captured stays.
    """
    from fl_audit.run.app_capture import capture_app  # needs Flower, which the later stages do not
    from fl_audit.run.app_engine import show_ungraded
    from fl_audit.run.capture_stage import capture_run

    config = folder.load_config()
    chosen: torch.device = pick_device(device or config.attack.device)
    with folder.lock():
        if folder.app.is_file():
            config = capture_app(folder, config, progress)
        else:
            capture_run(folder, config, progress, chosen)
        attack_captures(folder, config, progress, chosen)
        if folder.app.is_file():
            show_ungraded(folder, progress)
        summary = grade_run(folder, config, progress)
        progress.stage("report", 1)
        build_reports(folder.root)
        progress.advance()
    return summary
