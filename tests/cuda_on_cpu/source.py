"""Generated CUDA C as C++ for `machine.h`: shared arrays from the machine, its functions in place of inline PTX."""

from __future__ import annotations

import re
from collections.abc import Iterator

# What stands in place of the body of a device function that has inline PTX, by the function's name.
BODIES = {
    "to_float": "return gpu::float_of_half(x.bits);",
    "to_half": "return half{gpu::half_of(x)};",
    "to_bf16": "return bf16{gpu::bf16_of(x)};",
    "max_of": "return gpu::max_nan(a, b);",
    "min_of": "return gpu::min_nan(a, b);",
    "hidden": "return x;",
    "exp2_of": "return gpu::exp2_ftz(x);",
    "copy_async": "gpu::copy_async(to, from, valid);",
    "commit_copies": "gpu::commit_copies();",
    "wait_copies": "gpu::wait_copies(N);",
    "sync_first": "gpu::barrier(1, N, 0);",
    "fewer_registers": 'gpu::group_aligned("setmaxnreg");',
    "more_registers": 'gpu::group_aligned("setmaxnreg");',
    "load_matrices": "gpu::load_matrices(r, p, false);",
    "load_turned_matrices": "gpu::load_matrices(r, p, true);",
    "load_words": "gpu::load_matrices(r, p, false);",
    "mma": "gpu::mma(d, a, b0, b1, gpu::{kind});",
    "mma_8": "gpu::mma(d, a, b0, b1, gpu::TF32);",
    "tf32_of": "return gpu::tf32_of(x);",
    "fence_shared": "",
    "wgmma_fence": "",
    "wgmma_commit": "gpu::wgmma_commit();",
    "wgmma_wait": "gpu::wgmma_wait(N);",
    "hold_sums": "",
    "wgmma_64x": "gpu::wgmma(&d[0][0], {n}, a, nullptr, b, TA, TB, gpu::{kind}, add);",
    "wgmma_held_64x": "const unsigned held[4] = {pair_of(a[0], 0), pair_of(a[0], 2), pair_of(a[1], 0), "
                      "pair_of(a[1], 2)}; gpu::wgmma(&d[0][0], {n}, 0, held, b, 0, TB, gpu::{kind}, add);",
    "gate_start": "gpu::gate_start(g, arrivals);",
    "gates_started": "",
    "gate_arrive": "gpu::gate_arrive(g);",
    "gate_expect": "gpu::gate_expect(g, bytes);",
    "gate_await": "gpu::gate_await(g, phases);",
    "bulk_copy_": "const int at[] = {{at}}; gpu::bulk_copy(to, &from, g, {n}, at);",
}  # fmt: skip

_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/|[{};]', re.S)
_NAME = re.compile(r"(\w+)\s*(?:<[^<>]*>)?\s*\(")
_NUMBERED = re.compile(r"(wgmma_64x|wgmma_held_64x|bulk_copy_)(\d+)$")
_SHARED = re.compile(r"__shared__ (?:__align__\((\d+)\) )?([\w ]+?) (\w+)((?:\[\d+\])+);")
_DYNAMIC = "extern __shared__ __align__(1024) unsigned char shared_memory[];"
_KERNEL = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\) )?(\w+)\(')


class NotEmulated(Exception):
    """Inline PTX that this machine does not know."""


def translated(text: str) -> str:
    """The C++ of a module of CUDA C: every kernel NAME is there as `run_NAME(void** values)`. Raises NotEmulated."""
    number = iter(range(1 << 30))

    def shared(m: re.Match) -> str:
        aligned, type_, name, dims = m.groups()
        return (f"typedef {type_} {name}_type{dims}; {name}_type& {name} = *({name}_type*)"
                f"gpu::shared({next(number)}, sizeof({name}_type), {aligned or f'alignof({type_})'});")

    names = _KERNEL.findall(text)
    text = "".join(map(_definition, definitions(text)))
    text = text.replace(_DYNAMIC, "unsigned char* shared_memory = gpu::dynamic_shared();")
    text = _SHARED.sub(shared, text).replace('extern "C" __global__', "static")
    for word in ("__shared__", "asm"):
        left = re.search(rf"\b{word}\b[^\n]*", re.sub(r"//[^\n]*", "", text))
        if left:
            raise NotEmulated(f"no emulation of {left.group()}")
    entries = [f'extern "C" void run_{n}(void** values) {{ gpu::call(generated::{n}, values); }}\n' for n in names]
    return f'#include "machine.h"\nnamespace generated {{\n{text}\n}}\n{"".join(entries)}'


def definitions(text: str) -> Iterator[str]:
    """The top-level declarations and definitions of a C source, one after the other."""
    depth = start = 0
    for m in _TOKEN.finditer(text):
        c = m.group()
        depth += (c == "{") - (c == "}")
        if depth == 0 and c in "};":
            if c == "}" and text[m.end() : m.end() + 1] == ";":
                continue
            yield text[start : m.end()]
            start = m.end()
    yield text[start:]


def _definition(text: str) -> str:
    """A definition with another body if its own is inline PTX."""
    code = re.sub(r"//[^\n]*", "", text)
    if not re.search(r"\basm\b", code):
        return text
    head = code[: code.index("{")]
    name = _NAME.search(head)
    found = name.group(1) if name and "__global__" not in head else head.strip()
    numbered = _NUMBERED.match(found)
    base, n = numbered.groups() if numbered else (found, "")
    if base not in BODIES:
        raise NotEmulated(f"no emulation of the inline PTX in {found}")
    body = BODIES[base].replace("{n}", n).replace("{kind}", "BF16" if "bf16" in head else "HALF")
    body = body.replace("{at}", ", ".join(f"c{k}" for k in range(int(n or 0))))
    return f"{head}{{ {body} }}"
