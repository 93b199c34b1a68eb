"""`custom_kernel`: a kernel that the user writes in the Loop IR, as an operation like any other."""

from __future__ import annotations

import contextlib
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dlc.base.errors import DlcError, DTypeError, ParseError, ShapeError, TraceError, VerifyError
from dlc.frontend.core.location import here, user_errors
from dlc.frontend.core.operands import as_node
from dlc.frontend.core.tensor import Tensor, wrap
from dlc.frontend.core.trace import state
from dlc.frontend.transforms.body import TracedBody, closed
from dlc.frontend.transforms.gradients import check_callable, pending
from dlc.ir.dtypes import DType
from dlc.ir.graph import nodes as build
from dlc.ir.graph.graph import Graph, Node, TensorType, make

if TYPE_CHECKING:
    from dlc.ir.loops.ir import Kernel

HIGHEST_ORDER = 4  # derivatives of a kernel whose rules use it again

_rules = threading.local()  # how deep in rules of kernels that are used in rules


class _Signature(NamedTuple):
    """What a kernel is for one list of input types."""

    text: str
    outputs: tuple[TensorType, ...]
    single: bool
    rules: dict[str, Any]


def custom_kernel(
    kernel: str | Kernel | Callable[..., str | Kernel],
    outputs: Any,
    *,
    vjp: Callable | None = None,
    jvp: Callable | None = None,
    batching: Callable | None = None,
) -> CustomKernel:
    """A function of Tensors that runs a kernel written in the Loop IR (docs/semantics.md shows how).

    `kernel` is the text of a kernel, a `dlc.ir.loops.Kernel`, or a function that gives one from the inputs' types (each
    with `.shape` and `.dtype`). Its parameters are the inputs and then the results, flat, row-major.
    `outputs` are the results' types, or a function that gives them from the inputs': anything with `.shape` and
    `.dtype`, or a pair (shape, dtype); for a kernel with several results a list of these.

    `vjp(inputs, outputs, cotangents)` gives a gradient (or None) for each input, `jvp(inputs, outputs, tangents)` the
    results' tangents, both written with public functions; without `jvp`, the transpose of `vjp` is used.
    `batching(size, batched, *inputs)` gives the results for a batch, which is axis 0 of the inputs that `batched` flags
    and of every result; without it, `vmap` runs the kernel for one example after the other.
    """
    return CustomKernel(kernel, outputs, vjp, jvp, batching)


class CustomKernel:
    """What `custom_kernel` returns."""

    def __init__(self, kernel: Any, outputs: Any, vjp: Callable | None, jvp: Callable | None,
                 batching: Callable | None):
        for name, rule in (("vjp", vjp), ("jvp", jvp), ("batching", batching)):
            if rule is not None:
                check_callable(f"custom_kernel, {name}", rule)
        self.kernel, self.outputs, self.vjp, self.jvp = kernel, outputs, vjp, jvp
        self.batching = None if batching is None else _Batching(self, batching)
        self._text = "" if callable(kernel) else _canonical(kernel)
        self._signatures: dict[Any, _Signature] = {}

    @property
    def __name__(self) -> str:
        from dlc.ir.graph import custom

        return custom.kernel_of(self._text).name if self._text else getattr(self.kernel, "__name__", "custom_kernel")

    def __repr__(self) -> str:
        return f"<dlc.custom_kernel {self.__name__}>"

    def __call__(self, *inputs: Any) -> Any:
        """The result, or a tuple of the results, as `outputs` says."""
        return self._call(*inputs)

    @property
    def _call(self) -> Callable:
        def call(*inputs: Any) -> Any:
            nodes = [as_node(x) for x in inputs]
            signature = self._signature(tuple(n.type for n in nodes))
            results = self._nodes(nodes, signature)
            tensors = tuple(map(pending, results))
            return tensors[0] if signature.single else tensors

        call.__name__ = self.__name__
        return user_errors(call)

    def _nodes(self, inputs: Sequence[Node], signature: _Signature) -> list[Node]:
        loc = here()
        outs = signature.outputs
        node = make("call", inputs, loc, kernel=signature.text, dtypes=tuple(t.dtype for t in outs),
                    shapes=tuple(t.shape for t in outs), **signature.rules)
        return [build.item(node, k, loc) for k in range(len(outs))]

    # --- what it is for given inputs ---

    def _signature(self, types: tuple[TensorType, ...]) -> _Signature:
        depth = getattr(_rules, "depth", 0)
        key = types, min(depth, HIGHEST_ORDER)
        found = self._signatures.get(key)
        if found is None:
            from dlc.ir.graph import custom

            outs, single = self._outputs(types)
            text = self._text or _canonical(self.kernel(*types))
            custom.check_types(custom.kernel_of(text), types, outs)
            rules: dict[str, Any] = {} if self.batching is None else {"batching": self.batching}
            if depth < HIGHEST_ORDER:
                if self.vjp is not None:
                    rules["vjp"] = self._traced_vjp(types, outs, single)
                if self.jvp is not None:
                    rules["jvp"] = self._traced_jvp(types, outs, single)
            found = self._signatures[key] = _Signature(text, outs, single, rules)
        return found

    def _outputs(self, types: tuple[TensorType, ...]) -> tuple[tuple[TensorType, ...], bool]:
        given = self.outputs(*types) if callable(self.outputs) else self.outputs
        one = _as_type(given)
        if one is not None:
            return (one,), True
        several = tuple(map(_as_type, given)) if isinstance(given, (list, tuple)) else ()
        if not several or None in several:
            raise ShapeError(f"custom kernel {self.__name__}: outputs must be types (with .shape and .dtype, or pairs "
                             f"of shape and dtype), not {given!r}")
        return several, False  # type: ignore[return-value]

    def _traced_vjp(self, ins: tuple[TensorType, ...], outs: tuple[TensorType, ...], single: bool) -> Graph:
        moving = [t for t in outs if t.dtype.is_float]

        def call(inputs: tuple, results: tuple, cotangents: list[Tensor]) -> list[Node]:
            given = iter(cotangents)
            all_cts = tuple(next(given) if t.dtype.is_float else None for t in outs)
            got = self.vjp(inputs, *((results[0], all_cts[0]) if single else (results, all_cts)))
            got = tuple(got) if isinstance(got, (tuple, list)) else (got,)
            return self._fitted("vjp", got, ins, "gradients", "inputs")

        return self._traced("vjp", self.vjp, ins, outs, moving, call)

    def _traced_jvp(self, ins: tuple[TensorType, ...], outs: tuple[TensorType, ...], single: bool) -> Graph:
        moving = [t for t in ins if t.dtype.is_float]

        def call(inputs: tuple, results: tuple, tangents: list[Tensor]) -> list[Node]:
            given = iter(tangents)
            every = tuple(next(given) if t.dtype.is_float else None for t in ins)
            got = self.jvp(inputs, results[0] if single else results, every)
            got = tuple(got) if isinstance(got, (tuple, list)) else (got,)
            return self._fitted("jvp", got, outs, "tangents", "results")

        return self._traced("jvp", self.jvp, ins, outs, moving, call)

    def _fitted(self, rule: str, got: tuple, types: Sequence[TensorType], what: str, whose: str) -> list[Node]:
        """The derivatives that a rule gave, one for each float among `types`; None is zero."""
        if len(got) != len(types):
            raise ShapeError(f"the {rule} of custom kernel {self.__name__} gave {len(got)} {what} for {len(types)} "
                             f"{whose}")
        out = []
        for k, (x, t) in enumerate(zip(got, types, strict=True)):
            if not t.dtype.is_float:
                continue
            node = build.const(0, t.dtype, t.shape) if x is None else as_node(x)
            if node.type != t:
                raise ShapeError(f"the {rule} of custom kernel {self.__name__} gave {node.type} for {whose[:-1]} {k}, "
                                 f"which is {t}")
            out.append(node)
        return out

    def _traced(self, rule: str, fn: Any, ins: Sequence[TensorType], outs: Sequence[TensorType],
                moving: Sequence[TensorType], call: Callable) -> Graph:
        name = f"{self.__name__}_{rule}"
        body = TracedBody(f"the {rule} of a custom kernel", fn)
        n, m = len(ins), len(ins) + len(outs)
        types = [*((t, f"input{k}") for k, t in enumerate(ins)), *((t, f"output{k}") for k, t in enumerate(outs)),
                 *((t, f"derivative{k}") for k, t in enumerate(moving))]
        with _inside_rule():
            nodes, _ = body.run(types, lambda ts: [wrap(x) for x in call(tuple(ts[:n]), tuple(ts[n:m]), ts[m:])])
            leaves, _ = body.consts(nodes)
        if leaves or body.assigned:
            seen = next((r.loc for r in (*body.assigned, *body.read)), None)
            where = f" (at {seen})" if seen else ""
            raise TraceError(f"the {rule} of custom kernel {self.__name__} uses a Tensor or an array that is none of "
                             f"its arguments{where}: make it an input of the kernel\n  at {here()}")
        return closed(body.params, nodes, name)


class _Batching:
    """The user's batching rule, as the pass `vmap` calls it."""

    def __init__(self, owner: CustomKernel, rule: Callable):
        self.owner, self.rule = owner, rule

    def batch(self, node: Node, inputs: Sequence[Node], batched: Sequence[bool], size: int) -> list[Node]:
        with _inside_rule(0):
            got = self.rule(size, tuple(batched), *map(wrap, inputs))
            outs = [as_node(x) for x in (got if isinstance(got, (tuple, list)) else (got,))]
        want = [TensorType(t.dtype, (size, *t.shape)) for t in node.type]
        if [o.type for o in outs] != want:
            given, asked = (", ".join(map(str, types)) for types in ([o.type for o in outs], want))
            raise ShapeError(f"the batching of custom kernel {self.owner.__name__} gave {given}, expected {asked}")
        return outs


@contextlib.contextmanager
def _inside_rule(deeper: int = 1) -> Iterator[None]:
    """A rule means the same wherever its kernel is used: not inside autocast, and with gradients."""
    saved = state.no_grad, state.autocast, getattr(_rules, "depth", 0)
    state.no_grad, state.autocast, _rules.depth = False, (None,), saved[2] + deeper
    try:
        yield
    finally:
        state.no_grad, state.autocast, _rules.depth = saved


def _canonical(kernel: Any) -> str:
    from dlc.ir.graph import custom
    from dlc.ir.loops.ir import Kernel
    from dlc.ir.loops.parse import parse_kernel

    try:
        if isinstance(kernel, str):
            kernel = parse_kernel(textwrap.dedent(kernel))
        if not isinstance(kernel, Kernel):
            raise DTypeError(f"custom_kernel: a kernel is a text, a Kernel, or a function that gives one, not a "
                             f"{type(kernel).__name__}")
        return custom.canonical(kernel)
    except (ParseError, VerifyError, DTypeError) as error:
        raise _at_user(error) from None


def _at_user(error: DlcError) -> DlcError:
    loc = here()
    out = type(error)(f"custom_kernel: {error}\n  at {loc}" + (f", in {loc.function}" if loc.function else ""))
    out.loc = loc  # type: ignore[attr-defined]  # complete: nobody adds a line
    return out


def _as_type(x: Any) -> TensorType | None:
    """`x` as the type of a result, or None."""
    if isinstance(x, TensorType):
        return x
    if isinstance(x, tuple) and len(x) == 2 and isinstance(x[1], DType) and isinstance(x[0], (tuple, list)):
        return TensorType(x[1], tuple(map(int, x[0])))
    dtype, shape = getattr(x, "dtype", None), getattr(x, "shape", None)
    return TensorType(dtype, tuple(shape)) if isinstance(dtype, DType) and shape is not None else None
