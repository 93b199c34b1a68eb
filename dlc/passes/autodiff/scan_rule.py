"""The reverse-mode rule of `scan`, and the pass that runs a loop and its recording twin as one.

Going backward, a step needs values of its forward step: the residuals. The rule builds a second forward scan that also
stacks those residuals, and a scan in the other direction that carries the cotangents. `merge_scans` then replaces the
plain forward scan by the recording one, so that the forward loop runs once.

What is stored is decided on the frontier, the forward nodes that cotangent-dependent nodes read: scanned inputs are
there already, constants of the loop are passed again, views and cheap arithmetic are recomputed where that stores no
more bytes than storing their result, and what a checkpoint recomputes is recomputed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dlc.ir.graph import nodes as B
from dlc.ir.graph.formulas import add
from dlc.ir.graph.graph import Graph, Node, make, param, substitute, topological
from dlc.ir.graph.ops import split_spec
from dlc.ir.graph.table import OPS
from dlc.ir.scalar import SCALAR_OPS
from dlc.ir.sum_blocks import BLOCK, limit
from dlc.passes.autodiff.vjp import VJP, differentiable, pullback
from dlc.passes.autodiff.vjp_rules import Ct, inverse

_CHEAP_COST = 2  # machine operations an element up to which recomputing beats a load


def _cheap(node: Node) -> bool:
    if node.op in SCALAR_OPS:
        return SCALAR_OPS[node.op].cost <= _CHEAP_COST
    return node.op in ("cast", "select", "tag", "barrier") or OPS[node.op].view


# ---------------------------------------------------------------------------------------------- what depends on what


def _dependence(body: Graph) -> list[int]:
    """For each output of `body`, the bit set of the parameters it has a derivative in."""
    bits = {p: 1 << k for k, p in enumerate(body.params) if p.dtype.is_float}
    for node in body.nodes():
        if node.inputs and differentiable(node):
            bits[node] = 0
            for i in node.inputs:
                bits[node] |= bits.get(i, 0)
    return [bits.get(o, 0) for o in body.outputs]


def _downstream(order: Sequence[Node], sources: Iterable[Node]) -> set[Node]:
    """The nodes of `order` that depend on one of `sources`, and these."""
    found = set(sources)
    for n in order:
        if any(i in found for i in n.inputs):
            found.add(n)
    return found


class _Flow(NamedTuple):
    active: list[int]  # parameters of the body that carry a derivative
    live: list[int]  # outputs of the body that receive a cotangent and lead to an active parameter


def active_params(node: Node, given: Sequence[bool]) -> int:
    """The bit set of the body's parameters that carry a derivative, if the inputs in `given` do."""
    n_const, n_carry = node.attrs["consts"], node.attrs["carry"]
    depends = _dependence(node.attrs["body"])
    active = sum(1 << k for k, wanted in enumerate(given) if wanted)
    for _ in range(n_carry):  # a derivative enters one more carry a round at least, or none
        for k in range(n_carry):
            if depends[k] & active:
                active |= 1 << (n_const + k)
    return active


def _flow(node: Node, cts: Sequence[Ct], need: Sequence[bool]) -> _Flow:
    n_const, n_carry = node.attrs["consts"], node.attrs["carry"]
    depends = _dependence(node.attrs["body"])
    active = active_params(node, need)
    live = {k for k, ct in enumerate(cts) if ct is not None and depends[k] & active}
    for _ in range(n_carry):
        read = [k for k in range(n_carry) if any(depends[o] >> (n_const + k) & 1 for o in live)]
        live |= {k for k in read if depends[k] & active}
    return _Flow([k for k in range(len(need)) if active >> k & 1], sorted(live))


# ---------------------------------------------------------------------------- gradients of constants, after the loop


class _Deferred(NamedTuple):
    """A gradient term contract(left, right) of a constant, due as one contraction over steps and batch."""

    chain: tuple[Node, ...]  # unary linear operations on the way from the product to the gradient, innermost first
    product: Node


_LINEAR_UNARY = ("permute", "reshape", "cast", "neg")


def _terms(grad: Node, chain: tuple[Node, ...] = ()) -> list[tuple[tuple[Node, ...], Node]]:
    """`grad` as a sum of terms, each a core and the chain of linear operations on it."""
    if grad.op == "add":
        return _terms(grad.inputs[0], chain) + _terms(grad.inputs[1], chain)
    if grad.op in _LINEAR_UNARY:
        return _terms(grad.inputs[0], (grad, *chain))
    return [(chain, grad)]


def _apply(chain: Sequence[Node], x: Node) -> Node:
    for link in chain:
        x = make(link.op, (x,), link.loc, **link.attrs)
    return x


def _without_permutes(x: Node, labels: str) -> tuple[Node, str]:
    while x.op == "permute":
        labels = "".join(labels[a] for a in inverse(x.attrs["axes"]))
        x = x.inputs[0]
    return x, labels


# ------------------------------------------------------------------------------------------------------ the rule


class _Residuals:
    """Chooses which forward values of the body are stacked, and gives each its place in the backward body."""

    def __init__(self, node: Node):
        body, n_const = node.attrs["body"], node.attrs["consts"]
        self.scan = node
        self.consts = body.params[:n_const]
        self.xs = body.params[n_const + node.attrs["carry"] :]
        self.stored: dict[Node, None] = {}  # an ordered set
        self.varying: dict[Node, bool] = {p: k >= n_const for k, p in enumerate(body.params)}
        self.again: dict[Node, bool] = {}  # behind a checkpoint's barrier

    def classify(self, order: Sequence[Node]) -> None:
        for n in order:
            self.varying.setdefault(n, any(self.varying[i] for i in n.inputs))
            self.again[n] = n.op == "barrier" or any(self.again[i] for i in n.inputs)

    def _free(self, n: Node) -> bool:
        return n in self.xs or not self.varying[n]

    def _sources(self, n: Node) -> dict[Node, None]:
        """The nodes that are not recomputed from which `n` can be."""
        return dict.fromkeys(s for s in topological([n], stop=self._kept) if self._kept(s))

    def _kept(self, n: Node) -> bool:
        return not n.inputs or self._free(n) or not (self.again[n] or _cheap(n))

    def choose(self, frontier: Sequence[Node]) -> None:
        later = []
        for n in frontier:
            if self._free(n):
                continue
            if self.again[n]:
                self.store_all(self._sources(n))
            elif self._kept(n):
                self.stored[n] = None
            else:
                later.append(n)
        for n in later:
            extra = [s for s in self._sources(n) if s not in self.stored and not self._free(s)]
            if sum(s.type.nbytes for s in extra) <= n.type.nbytes:
                self.store_all(extra)
            else:
                self.stored[n] = None

    def store_all(self, nodes: Iterable[Node]) -> None:
        for n in nodes:
            if not self._free(n):
                self.stored[n] = None

    def invariant(self, n: Node) -> bool:
        """Depends on constants of the loop alone, and costs enough to be computed once, outside."""
        return bool(n.inputs) and not self.varying[n] and not _cheap(n)


def scan_vjp(node: Node, cts: Sequence[Ct], need: Sequence[bool]) -> list[Ct]:
    """Cotangents of a scan's inputs; see the head of this file."""
    attrs, body = node.attrs, node.attrs["body"]
    length, n_const, n_carry = attrs["length"], attrs["consts"], attrs["carry"]
    if length == 0:
        return [None] * n_const + list(cts[:n_carry]) + [None] * (len(node.inputs) - n_const - n_carry)
    active, live = _flow(node, cts, need)
    if not live:
        return [None] * len(need)
    ct_of = {k: param(body.outputs[k].type, f"ct{k}") for k in live}
    grads = pullback([body.outputs[k] for k in live], [ct_of[k] for k in live], [body.params[k] for k in active])
    grad = {k: g for k, g in zip(active, grads, strict=True) if g is not None}

    live_carry = [k for k in live if k < n_carry]
    live_ys = [k for k in live if k >= n_carry]
    const_grads = {k: grad[k] for k in grad if k < n_const}
    xs_grads = {k: grad[k] for k in grad if k >= n_const + n_carry and need[k]}
    carry_out = {k: grad.get(n_const + k) or B.like(ct_of[k], 0) for k in live_carry}

    order = topological([*carry_out.values(), *const_grads.values(), *xs_grads.values()])
    on_ct = _downstream(order, ct_of.values())
    residuals = _Residuals(node)
    residuals.classify(topological([*body.params, *body.outputs, *(n for n in order if n not in on_ct)]))

    # Constants: products of two things of the step wait for the end; the rest is accumulated in the carry.
    deferred: dict[int, list[_Deferred]] = {}
    accumulated: dict[int, list[Node]] = {}
    emitted: dict[Node, None] = {}  # cotangent-dependent operands, stacked by the backward scan
    for k, g in const_grads.items():
        for chain, core in _terms(g):
            if core.op == "contract" and all(i in on_ct or residuals.varying[i] for i in core.inputs):
                labels = split_spec(core.attrs["spec"])[:2]
                operands = [_without_permutes(i, t)[0] for i, t in zip(core.inputs, labels, strict=True)]
                emitted.update(dict.fromkeys(o for o in operands if o in on_ct))
                residuals.store_all(o for o in operands if o not in on_ct)
                deferred.setdefault(k, []).append(_Deferred(chain, core))
            else:
                accumulated.setdefault(k, []).append(_apply(chain, core))

    roots = [*carry_out.values(), *xs_grads.values(), *(t for ts in accumulated.values() for t in ts), *emitted]
    on_ct |= _downstream(topological(roots), ct_of.values())  # taking sums apart can make new nodes
    reached = topological(roots, stop=lambda n: n not in on_ct)
    frontier = [n for n in reached if n not in on_ct]
    residuals.choose(frontier)

    # The forward scan once more, recording.
    stored = list(residuals.stored)
    recording = node
    if stored:
        wide_body = Graph(body.params, (*body.outputs, *stored), body.name)
        recording = make("scan", node.inputs, node.loc, **{**attrs, "body": wide_body})
    outer = dict(zip(body.params, node.inputs, strict=True))
    stacks = {n: B.item(recording, len(body.outputs) + k) for k, n in enumerate(stored)}
    stacks |= {x: outer[x] for x in residuals.xs}

    # The backward body: every forward value it reads becomes a parameter.
    inner: dict[Node, Node] = {n: param(n.type) for n in stored}
    hoisted: dict[Node, Node] = {}
    for n in topological(roots, stop=lambda n: n in inner or (n not in on_ct and residuals.invariant(n))):
        if n not in on_ct and n not in inner and residuals.invariant(n):
            hoisted[n] = substitute([n], outer)[0]
            inner[n] = param(n.type)
    leaves = [n for n in topological(roots, stop=inner.__contains__) if n.op == "param" and n not in on_ct]
    leaves = [n for n in leaves if n not in inner]
    inner |= {n: param(n.type, n.attrs["name"]) for n in leaves}
    const_leaves = [n for n in leaves if n in residuals.consts]
    xs_leaves = [n for n in leaves if n in residuals.xs]

    sums = {k: param(body.params[k].type._replace(dtype=body.params[k].dtype.compute)) for k in accumulated}
    rests = {k: param(s.type) for k, s in sums.items() if length > limit(BLOCK)}
    new_roots = iter(substitute(roots, inner))
    outs = [next(new_roots) for _ in carry_out]
    out_xs = [next(new_roots) for _ in xs_grads]
    lost = []
    for k, terms in accumulated.items():
        total, rest = sums[k], rests.get(k)
        for _ in terms:
            term = B.cast(next(new_roots), total.dtype)
            if rest is None:
                total = add(total, term)
            else:
                total, rest = _compensated(total, rest, term)
        outs.append(total)
        lost += [] if rest is None else [rest]
    outs += lost + out_xs + list(new_roots)

    back_params = [
        *(inner[n] for n in const_leaves),
        *(inner[n] for n in hoisted),
        *(ct_of[k] for k in live_carry),
        *sums.values(),
        *rests.values(),
        *(inner[n] for n in stored),
        *(inner[n] for n in xs_leaves),
        *(ct_of[k] for k in live_ys),
    ]
    back_inputs = [
        *(outer[n] for n in const_leaves),
        *hoisted.values(),
        *(B.like(ct_of[k], 0) if cts[k] is None else cts[k] for k in live_carry),
        *(B.like(s, 0) for s in (*sums.values(), *rests.values())),
        *(stacks[n] for n in stored),
        *(outer[n] for n in xs_leaves),
        *(cts[k] for k in live_ys),
    ]
    backward = make(
        "scan",
        back_inputs,
        node.loc,
        body=Graph(back_params, outs, f"{body.name}_backward"),
        length=length,
        consts=len(const_leaves) + len(hoisted),
        carry=len(live_carry) + len(sums) + len(rests),
        reverse=not attrs["reverse"],
    )
    results = iter([B.item(backward, k) for k in range(len(outs))])

    found: dict[int, Node] = {n_const + k: next(results) for k in live_carry}
    sums = {k: next(results) for k in sums}
    sums |= {k: add(sums[k], _inert(next(results))) for k in rests}
    totals = {k: B.cast(s, body.params[k].dtype) for k, s in sums.items()}
    found |= {k: next(results) for k in xs_grads}
    stacks |= {n: next(results) for n in emitted}
    for k, terms in deferred.items():
        for chain, product in terms:
            whole = _apply(chain, _over_steps(product, stacks))
            totals[k] = add(totals[k], whole) if k in totals else whole
    found |= totals
    return [found.get(k) if wanted else None for k, wanted in enumerate(need)]


def _inert(rest: Node) -> Node:
    """What a sum has rounded away has no derivative: in exact arithmetic it is 0."""
    return make("stop_gradient", (rest,))


def _compensated(total: Node, rest: Node, term: Node) -> tuple[Node, Node]:
    """The running total and its rest (what its additions have rounded away) after another term: see `long_sums`."""
    term = B.op("add", term, _inert(rest))
    new = B.op("add", total, term)
    rest = _inert(B.op("sub", term, B.op("sub", new, total)))
    known = B.op("lt", B.op("abs", rest), B.like(rest, math.inf))
    return new, B.select(known, rest, B.like(rest, 0))


def _over_steps(product: Node, stacks: dict[Node, Node]) -> Node:
    """The sum over all steps of a contraction, as one contraction of the stacked operands."""
    left, right, out = split_spec(product.attrs["spec"])
    step = next(c for c in "tuvwxyzabcdefghijklmnopqrsTUVWXYZ" if c not in left + right)
    a, left = _without_permutes(product.inputs[0], left)
    b, right = _without_permutes(product.inputs[1], right)
    return B.contract(stacks[a], stacks[b], f"{step}{left},{step}{right}->{out}", product.dtype)


# ------------------------------------------------------------------------------------------------------ merging


VJP["scan"] = scan_vjp
