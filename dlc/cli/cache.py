"""`dlc cache`: the disk cache of compiled code."""

from __future__ import annotations

import click

from dlc.inspect.units import nbytes, plural
from dlc.runtime import cache as disk


@click.group()
def cache() -> None:
    """The disk cache of compiled code."""


@cache.command()
def stats() -> None:
    """Where it is, and how full."""
    store = disk.default()
    if store.directory is None:
        click.echo("the cache is off (DLC_CACHE=0)")
        return
    now = store.stats()
    entries = f"{now.entries} {'entry' if now.entries == 1 else 'entries'}"
    click.echo(f"{store.directory}: {entries}, {nbytes(now.bytes)} of {nbytes(store.max_bytes)}")
    kernels = disk.tuned().stats().entries
    if kernels:
        click.echo(f"{plural(kernels, 'kernel')} measured by tuning")


@cache.command()
def clear() -> None:
    """Remove every entry, and what tuning measured."""
    store = disk.default()
    before = store.stats()
    store.clear()
    disk.tuned().clear()
    left = store.stats().entries
    click.echo(f"removed {nbytes(before.bytes)} ({before.entries - left} of {before.entries} entries)")
