"""NVRTC, which compiles without a GPU, and what is asked of it."""

import pytest

from dlc.base.errors import DeviceError
from dlc.codegen.target.gpu import GpuTarget
from dlc.runtime import compile as compiler
from dlc.runtime.cuda import card
from dlc.runtime.cuda import compile as cuda_compile
from dlc.runtime.cuda import modules as cuda_modules
from tests.runtime.test_cuda_plan import scan_graph

SOURCE = 'extern "C" __global__ void twice(float* x) { x[threadIdx.x] *= 2; }'

try:
    cuda_modules.version()
    HAS_NVRTC = True
except DeviceError:
    HAS_NVRTC = False
needs_nvrtc = pytest.mark.skipif(not HAS_NVRTC, reason="needs cupy and nvidia-cuda-nvrtc")


@needs_nvrtc
def test_machine_code():
    code = cuda_modules.cubin(SOURCE, "sm_90a")
    assert code.startswith(b"\x7fELF") and b"twice" in code
    # an ELF file says how long it is: the program headers end it
    offset, size, count = (int.from_bytes(code[a:e], "little") for a, e in ((32, 40), (54, 56), (56, 58)))
    assert len(code) == offset + size * count
    text = cuda_modules.ptx(SOURCE, "sm_80")
    assert ".target sm_80" in text and ".entry twice" in text and "\0" not in text
    assert cuda_modules.cubins([SOURCE, SOURCE], "sm_80") == [cuda_modules.cubin(SOURCE, "sm_80")] * 2


@needs_nvrtc
def test_mistakes_are_shown_with_their_line():
    with pytest.raises(cuda_modules.CudaSourceError, match=r"dlc.cu\(2\): error(.|\n)*\n    int x = nothing;"):
        cuda_modules.cubin('extern "C" __global__ void k() {\nint x = nothing;\n}', "sm_80")


@needs_nvrtc
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_programs_compile(arch):
    target = GpuTarget.of(arch)
    program = compiler.lower(scan_graph(), compiler.Job(target, "scan", ()))
    texts = cuda_compile.sources(cuda_compile.modules_of(program), target)
    assert all(c.startswith(b"\x7fELF") for c in cuda_modules.cubins(texts, arch))


@needs_nvrtc
def test_sass_or_what_to_install(monkeypatch):
    code = cuda_modules.cubin(SOURCE, "sm_90a")
    if cuda_modules._tool("nvdisasm"):
        assert "EXIT" in cuda_modules.sass(code)
    monkeypatch.setattr(cuda_modules, "_tool", lambda name: None)
    with pytest.raises(DeviceError, match="needs NVIDIA's disassembler"):
        cuda_modules.sass(code)


def test_no_modules():
    """A program whose results are empty, or its own inputs, has no kernels."""
    assert cuda_modules.cubins([], "sm_90a") == []


def test_batches():
    weights = [5, 1, 1, 1, 9, 1, 1, 1, 1, 1, 1, 1]
    groups = cuda_modules.batches(list(range(12)), weights.__getitem__, threads=2)
    assert len(groups) == 2 and sorted(sum(groups, [])) == list(range(12)) and all(g == sorted(g) for g in groups)
    loads = [sum(weights[k] for k in g) for g in groups]
    assert max(loads) - min(loads) <= 1
    assert cuda_modules.batches([], len) == [] and cuda_modules.batches([7], lambda _: 1.0, threads=8) == [[7]]
    assert len(cuda_modules.batches(list(range(100)), lambda _: 1.0, threads=2)) == 9


def test_architectures():
    assert [card.arch_name(*v) for v in ((8, 0), (8, 9), (9, 0), (12, 0))] == [
        "sm_80", "sm_89", "sm_90a", "sm_120a"]  # fmt: skip
