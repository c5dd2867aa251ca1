"""What every stage's command line has in common: a TOML file, overrides, `--fresh`, ranks, and an end that cleans
up.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from configs import load
from train.distributed import Ranks, setup, teardown
from train.run import RunFolder


def stage_parser(name: str, description: str) -> argparse.ArgumentParser:
    """The arguments that all stages take."""
    parser = argparse.ArgumentParser(prog=f"python -m train.{name}", description=description)
    parser.add_argument("config", help=f"TOML file, for example configs/demo/{name}.toml")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="replace settings of the file")
    parser.add_argument("--fresh", action="store_true", help="delete the run folder and start anew")
    return parser


def run_stage(config: Any, work: Callable[[Any, Ranks, bool], None], fresh: bool) -> None:
    """Call `work(config, ranks, fresh)` on this rank; the process group is left whatever happens."""
    ranks = setup(config.train.device, config.train.threads)
    try:
        work(config, ranks, fresh)
    finally:
        teardown()


def open_run(config: Any, ranks: Ranks, fresh: bool) -> RunFolder:
    """The run folder of a stage, opened on all ranks; see `RunFolder.open`."""
    run = RunFolder(config.run, ranks.is_main)
    run.open(config, fresh)
    ranks.barrier()
    return run


def stage_main(argv: list[str], name: str, config_class: type, work: Callable, description: str) -> None:
    """The `main` of a stage without options of its own."""
    arguments = stage_parser(name, description).parse_args(argv)
    run_stage(load(config_class, arguments.config, arguments.overrides), work, arguments.fresh)
