"""The entrypoint: ``python -m maskvos.run +experiment=swin_t``; from Python ``run(compose(["+experiment=smoke"]))``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from maskvos.errors import UserError, fail, require_framework

if __name__ == "__main__":  # before what is not there is imported
    try:
        require_framework()
    except UserError as missing:
        fail(str(missing))

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from maskvos.cli.compose import CONF, complete, compose
from maskvos.cli.hints import EXPLAINED, check_flags, explain
from maskvos.cli.launch import check_command_line, check_nested_launch, check_overrides
from maskvos.cli.quoting import quote_texts
from maskvos.cli.sweep import SweepError, print_table
from maskvos.cli.terminal import log_to_terminal_only, remove_run
from maskvos.cli.version import version_text
from maskvos.environment import check_memory_limit, processes
from maskvos.reports.sweep import write_result
from maskvos.tasks import run_task

__all__ = ["compose", "main", "run"]


def run(cfg: DictConfig) -> dict[str, float]:
    """Run ``cfg.task`` and return its metrics.

    Args:
        cfg: The configuration, as `compose` returns it.

    Raises:
        UserError: The configuration or the data that it names is invalid.
    """
    if cfg.get("local"):
        raise UserError('conf/local/default.yaml: its first line must be "# @package _global_"; add it')
    try:
        return run_task(cfg)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a process that loads data was ended from outside ({str(error)[:80]}), perhaps since the memory was full; "
            "lower data.num_workers, and repeat the command, a training with ckpt_path=last"
        ) from error
    finally:
        # A later run of this process, such as a sweep's next one, must not continue this wandb run.
        if wandb := sys.modules.get("wandb"):
            wandb.finish()


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def _hydra_main(cfg: DictConfig) -> float | None:
    check_nested_launch(cfg)
    if GlobalHydra.instance().is_initialized():  # not in the processes of a launcher
        check_overrides(cfg)
    job = HydraConfig.get()
    sweep = Path(job.sweep.dir).name if job.mode == RunMode.MULTIRUN else None
    begin = time.monotonic()
    folder = Path(job.runtime.output_dir)
    chosen = any(override.startswith("hydra.run.dir") for override in job.overrides.hydra)
    # What has a place of its own leaves nothing in runs/.
    elsewhere = sweep is None and cfg.output is not None and not chosen and processes()[1] == 1
    if elsewhere:
        log_to_terminal_only()
    try:
        metrics = run(complete(cfg, list(job.overrides.task), sweep))
    finally:
        if elsewhere:
            remove_run(folder, Path(cfg.paths.runs))
    if processes()[0] == 0 and not elsewhere:
        write_result(folder, metrics, time.monotonic() - begin)
    return next((value for name, value in metrics.items() if name.startswith("best/")), None)


def main() -> None:
    """The command: a mistake of the user ends with one message and exit status 2."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises; the message is written here
    sys.argv[1:] = quote_texts(sys.argv[1:])  # where Hydra looks for them
    try:
        check_memory_limit()
        check_flags(sys.argv[1:])
        if text := version_text(sys.argv[1:]):
            print(text)
            return
        check_command_line(sys.argv[1:])
        _hydra_main()
    except SweepError as error:
        print_table(error.folder)
        fail(str(error))
    except EXPLAINED as error:
        if (message := explain(error)) is None:
            raise
        fail(message)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    # Imported by name: what a launcher pickles must not refer to "__main__", which is another module in its processes.
    from maskvos.run import main as named_main

    named_main()
