"""`rtl data`: data sets."""

import argparse
from pathlib import Path
from typing import Any

from rtl_utils import folders
from rtl_utils.cli._console import say
from rtl_utils.messages import shown


def add_data(commands: Any) -> None:
    data = commands.add_parser("data", help="data sets").add_subparsers(
        required=True, metavar="COMMAND"
    )
    pack = data.add_parser(
        "pack", help="write CIFAR-100 as one cifar100.npz for machines without a network"
    )
    pack.add_argument("path", metavar="FILE", nargs="?", help="default: data/cifar100.npz")
    pack.set_defaults(call=_pack)


def _pack(options: argparse.Namespace) -> int:
    from rtl_utils.data import pack

    path = folders.root() / "data" / "cifar100.npz" if options.path is None else Path(options.path)
    if not path.name or path.is_dir():
        raise ValueError(f"name the file to write; {shown(str(path))} is a folder")
    say(f"Written: {pack(path)}")
    return 0
