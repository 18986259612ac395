"""The `rtl` command.

Exit statuses: 0 done, 1 a notebook failed, 2 bad input or a file that cannot be written, 128 and
the signal's number where one ended it (130 for Ctrl-C).
"""

import argparse
import signal
import sys
from collections.abc import Sequence

from rtl_utils import __version__
from rtl_utils.cli import _batch, _data, _notebooks, _pages, _train
from rtl_utils.cli._console import (
    Interrupted,
    Parser,
    complain,
    give_up_stdout,
    quiet,
    sentence,
    signals,
)

__all__ = ["Interrupted", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: of the command line; None for this process's.

    Returns:
        The exit status, see above. Nothing that a user types raises.
    """
    stopped = "stopped"
    with quiet(), signals():
        try:
            options = _parser().parse_args(arguments)
            if options.command in ("run", "refresh", "batch", "train"):
                stopped += "; the same command carries on where it stopped"
            status: int = options.call(options)
            if sys.stdout is not None:
                sys.stdout.flush()
        except SystemExit as end:  # of argparse
            return end.code if isinstance(end.code, int) else 2
        except KeyboardInterrupt as signalled:
            complain(stopped)
            number = signalled.number if isinstance(signalled, Interrupted) else signal.SIGINT
            return 128 + number
        except (ValueError, OSError) as error:
            complain(sentence(error))
            return 2
        finally:
            give_up_stdout()
        return status


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="rtl",
        description="Does a fine-tuned network inherit the shortcuts of its first task?",
    )
    parser.add_argument("--version", action="version", version=f"rtl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _notebooks.add_run(commands)
    _notebooks.add_refresh(commands)
    _batch.add_batch(commands)
    _train.add_train(commands)
    _batch.add_runs(commands)
    _batch.add_results(commands)
    _data.add_data(commands)
    _pages.add_app(commands)
    return parser
