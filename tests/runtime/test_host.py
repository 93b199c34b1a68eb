"""The host as a compilation target."""

import os

import pytest

from dlc.codegen.target.cpu import LEVELS, CpuTarget
from dlc.runtime.cpu import host


@pytest.fixture
def fresh_detect():
    """`detect` as a new process would answer."""
    yield host.detect.__wrapped__
    host.detect.cache_clear()


def x86(*features: str) -> CpuTarget:
    return CpuTarget.from_features(
        "x86_64-unknown-linux-gnu", "whatever", dict.fromkeys(features, True),
        l1d_bytes=32 << 10, l2_bytes=1 << 20, l3_bytes=32 << 20, threads=4,
    )


def test_the_host_makes_sense():
    target = host.detect()
    assert target is host.detect()
    assert target.vector_bytes in (16, 32, 64)
    assert target.vector_registers in (16, 32)
    assert 8 << 10 <= target.l1d_bytes <= target.l2_bytes <= target.l3_bytes
    assert 1 <= target.threads <= (os.cpu_count() or 1)
    assert target.lanes(4) == target.vector_bytes // 4


def test_vectors_follow_the_flags_not_the_name():
    assert (x86("sse2").vector_bytes, x86("sse2").level) == (16, "sse2")
    assert (x86("avx", "avx2", "fma").vector_bytes, x86("avx", "avx2", "fma").vector_registers) == (32, 16)
    wide = x86("avx", "avx2", "fma", "avx512f", "avx512bf16", "amx-bf16", "amx-tile")
    assert (wide.vector_bytes, wide.vector_registers, wide.level) == (64, 32, "avx512")
    assert wide.has_avx512bf16 and wide.has_amx_bf16 and wide.has_fma
    assert not x86("avx512f", "amx-bf16").has_amx_bf16


def test_neon():
    target = CpuTarget.from_features(
        "aarch64-unknown-linux-gnu", "neoverse-n1", {"neon": True},
        l1d_bytes=64 << 10, l2_bytes=1 << 20, l3_bytes=32 << 20, threads=4,
    )
    assert (target.vector_bytes, target.vector_registers, target.level) == (16, 32, "neon")
    assert target.has_fma and not target.is_x86
    with pytest.raises(ValueError, match="only on x86-64"):
        target.with_features("avx2")


def test_levels_contain_one_another():
    sets = [set(x86("avx512f", "avx", "avx2", "fma", "vaes").with_features(level).features.split(","))
            for level in ("sse2", "avx2")]
    assert sets[0] < sets[1]
    assert "+vaes" not in sets[1]  # an extra of the host would make the code differ between hosts
    higher = x86("sse2").with_features("avx512")
    assert higher.vector_bytes == 64 and higher.l1d_bytes == 32 << 10
    with pytest.raises(ValueError, match="unknown CPU level 'avx3'; expected one of sse2, avx2, avx512"):
        x86("sse2").with_features("avx3")


def test_key_is_stable_and_ignores_threads():
    base = x86("sse2", "avx")
    assert base.key() == x86("avx", "sse2").key() == base.with_threads(1).key()
    keys = {base.with_features(level).key() for level in LEVELS} | {x86("sse2").key()}
    assert len(keys) == 4


def test_environment(monkeypatch, fresh_detect):
    own = host.detect()
    if own.is_x86:
        monkeypatch.setenv("DLC_CPU", "sse2")
        assert fresh_detect().vector_bytes == 16
        monkeypatch.setenv("DLC_CPU", "avx1024")
        with pytest.raises(ValueError, match="DLC_CPU='avx1024' is not a CPU level"):
            fresh_detect()
        monkeypatch.setenv("DLC_CPU", "avx512")
        monkeypatch.setattr(host.llvm, "get_host_cpu_features", lambda: {"sse2": True})
        with pytest.raises(ValueError, match="more than this host has"):
            fresh_detect()
        monkeypatch.delenv("DLC_CPU")
    monkeypatch.setenv("DLC_NUM_THREADS", "1")
    assert fresh_detect().threads == 1
    monkeypatch.setenv("DLC_NUM_THREADS", "100000")
    assert fresh_detect().threads == own.threads or own.threads < host.thread_count()
    monkeypatch.setenv("DLC_NUM_THREADS", "none")
    with pytest.raises(ValueError, match="DLC_NUM_THREADS='none' is not a positive whole number"):
        fresh_detect()


def test_cache_sizes_without_sysfs(monkeypatch, tmp_path):
    monkeypatch.setattr(host, "_SYSFS_CACHES", tmp_path / "absent")
    assert host.cache_bytes()[1, "Data"] == 32 << 10
    folder = tmp_path / "cache"
    levels = {"index0": ("1", "Data", "48K"), "index1": ("2", "Unified", "2M"), "index2": ("3", "", "")}
    for name, values in levels.items():
        (folder / name).mkdir(parents=True)
        for file, value in zip(("level", "type", "size"), values, strict=True):
            (folder / name / file).write_text(value + "\n")
    monkeypatch.setattr(host, "_SYSFS_CACHES", folder)
    assert host.cache_bytes() == {(1, "Data"): 48 << 10, (2, "Unified"): 2 << 20, (3, "Unified"): 2 << 20}
