"""`dlc info`: what dlc found on this machine."""

from __future__ import annotations

import platform

import click
import llvmlite
import llvmlite.binding as llvm
import numpy as np

import dlc
from dlc.inspect.units import nbytes
from dlc.runtime import cache
from dlc.runtime.cpu import host
from dlc.runtime.cuda import device as cuda_device

# What of the feature flags decides how code looks; the rest is in `dlc dump --stage llvm`.
_FEATURES = ("sse2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512bf16", "amx-bf16", "neon", "sve")


@click.command()
def info() -> None:
    """Host, processor features, threads, versions, devices (GPUs too) and the disk cache."""
    target, store = host.detect(), cache.default()
    stats, cards = store.stats(), cuda_device.cards()
    features = [f for f in _FEATURES if f"+{f}" in target.features.split(",")]
    kept = "off" if store.directory is None else f"{store.directory} ({nbytes(stats.bytes)}, {stats.entries} entries)"
    rows = {
        "dlc": dlc.__version__,
        "python": f"{platform.python_version()}, numpy {np.__version__}",
        "llvm": f"{'.'.join(map(str, llvm.llvm_version_info))} (llvmlite {llvmlite.__version__})",
        "host": f"{target.triple}, {target.cpu}",
        "level": f"{target.level} ({' '.join(features)})",
        "vectors": f"{target.vector_bytes * 8} bits: {target.lanes(4)} float32, {target.vector_registers} registers",
        "caches": f"L1d {nbytes(target.l1d_bytes)}, L2 {nbytes(target.l2_bytes)}, L3 {nbytes(target.l3_bytes)}",
        "threads": str(target.threads),
        "devices": ", ".join(["cpu", *(f"cuda:{card.index}" for card in cards)]),
        "cache": kept,
    }
    for card in cards:
        memory = f"{nbytes(card.total_bytes)}, {nbytes(card.free_bytes)} free"
        rows[f"cuda:{card.index}"] = f"{card.name}, {card.arch}, {memory}"
    if not cards:
        rows["cuda"] = f"none: {cuda_device.why_none()}"
    for name, value in rows.items():
        click.echo(f"{name:8} {value}")
