"""The command line: `dlc`, also `python -m dlc`."""

from __future__ import annotations

from typing import Any

import click

import dlc
from dlc.base.settings import SettingError
from dlc.cli.cache import cache
from dlc.cli.dump import dump
from dlc.cli.errors import CommandError
from dlc.cli.info import info
from dlc.cli.profile import profile


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SettingError as error:
            raise CommandError(str(error)) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(dlc.__version__, prog_name="dlc")
def main() -> None:
    """See what dlc makes of your code, and what it runs on."""


for command in (info, dump, profile, cache):
    main.add_command(command)
