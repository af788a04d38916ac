"""The entrypoint: ``python -m maskvos.run +experiment=swin_t``; from Python ``run(compose(["+experiment=smoke"]))``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from maskvos.cli.compose import CONF, complete, compose
from maskvos.cli.hints import check_flags, explain
from maskvos.cli.launch import check_files, check_groups, check_launch, check_nested_launch, check_overrides
from maskvos.cli.quoting import quote_texts
from maskvos.cli.terminal import log_to_terminal_only, remove_run
from maskvos.cli.version import version_text
from maskvos.environment import processes
from maskvos.errors import UserError, out_of_memory
from maskvos.reports.sweep import write_result
from maskvos.tasks import run_task

__all__ = ["compose", "main", "run"]

MISTAKES = (UserError, HydraException, OmegaConfBaseException, OSError, YAMLError)
"""Errors that are answered with one message instead of a traceback."""


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
    except MISTAKES as error:
        if sweep is not None:
            raise
        # Ends here, since Hydra would add a line of its own to the message.
        print(f"error: {explain(error)}", file=sys.stderr)
        sys.exit(2)
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
        check_flags(sys.argv[1:])
        if text := version_text(sys.argv[1:]):
            print(text)
            return
        check_launch(sys.argv[1:])
        check_files(sys.argv[1:])
        check_groups(sys.argv[1:])
        _hydra_main()
    except MISTAKES as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        sys.exit(2)
    except ValueError as error:
        if "Config group override" not in str(error):  # Hydra's for backbone=5
            raise
        print(f"error: {error}; choose the member of a group by its name, such as backbone=swin_t", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        print(f"error: the memory is full ({str(error)[:120]}); lower data.batch_size or data.size", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    # Imported by name: what a launcher pickles must not refer to "__main__", which is another module in its processes.
    from maskvos.run import main as named_main

    named_main()
