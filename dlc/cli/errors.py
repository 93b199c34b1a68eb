"""What goes wrong on the command line: one line on stderr, exit code 2, no traceback."""

from __future__ import annotations

from typing import IO, Any

import click


class CommandError(click.ClickException):
    """A mistake in what was asked for; the message is all that the user needs."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"dlc: {self.format_message()}", file=file, err=file is None)
