"""Every kernel of a program checked for coverage at the sizes that it is launched with."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from dlc.ir.loops.coverage import LARGEST, Apart, check
from dlc.ir.loops.ir import RUNTIME, Buffer, Kernel
from dlc.ir.loops.key import kernel_key
from dlc.ir.program.program import Launch, Program, Repeat

REMEMBERED = 1 << 14  # kernels
_right: OrderedDict[Hashable, None] = OrderedDict()  # what was found to be right in this process


def check_program(program: Program) -> None:
    """Check each kernel of a program, up to a million elements, at the sizes that it is launched with."""
    for run in launched(program):
        order = {b: k for k, b in enumerate(run.kernel.params)}
        facts = [tuple(sorted((order[b], x) for b, x in some.items())) for some in (run.sizes, run.apart)]
        if run.largest > LARGEST or (key := (kernel_key(run.kernel), *facts)) in _right:
            continue
        check(*run)
        _right[key] = None
        if len(_right) > REMEMBERED:
            _right.popitem(last=False)


class Run(NamedTuple):
    """A kernel as a program launches it: what `check` takes."""

    kernel: Kernel
    sizes: dict[Buffer, int]
    apart: dict[Buffer, Apart]

    @property
    def largest(self) -> int:
        """Elements of its largest buffer."""
        return max((self.sizes.get(b, b.size) for b in self.kernel.params), default=0)


def launched(program: Program) -> list[Run]:
    """The kernels of a program, each once for all sizes that it is launched with."""
    apart = {b: (n.shape, strides) for fused in program.fused for n, strides in fused.table.layout.items()
             if (b := fused.table.buffers.get(n)) is not None}
    found: dict[Hashable, Run] = {}

    def visit(steps: Sequence[Launch | Repeat]) -> None:
        for step in steps:
            if isinstance(step, Repeat):
                visit(step.body)
                continue
            params = step.kernel.params
            for part in step.segments if RUNTIME in (b.size for b in params) else step.segments[:1]:
                sizes = {b: r.slot.value for b, r in zip(params, part.args, strict=True) if r.slot.kind == "const"}
                n = next(iter(sizes.values()), 0)
                sizes |= {b: n for b in params if b.size == RUNTIME}
                own = {b: apart[b] for b in step.kernel.writes if b in apart}
                found.setdefault((step.kernel, n), Run(step.kernel, sizes, own))

    visit(program.steps)
    return list(found.values())
