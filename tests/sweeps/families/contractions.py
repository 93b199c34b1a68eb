"""Products of matrices and everything that is one: einsum, tensordot, vmap, linear and bilinear layers."""

from __future__ import annotations

from tests.sweeps.case import Case
from tests.sweeps.draw import Draw
from tests.sweeps.families.values import autocast, float_type, numbers

_MOST = 1 << 22  # products of a case


def _fit(d: Draw, letters: str, most: int = _MOST, high: int = 600) -> dict[str, int]:
    """An extent for each letter, whose product is at most `most`; few letters get large ones."""
    sizes: dict[str, int] = {}
    for letter in d.shuffled(letters):
        sizes[letter] = d.extent(max(1, min(high, most)))
        most //= sizes[letter]
    return sizes


def matmul(d: Draw) -> Case:
    """x @ w of all ranks, with broadcast batches and operands that are transposed on the way."""
    sizes = _fit(d, "mknabc")
    ranks = d.one_of(((2, 2), (3, 2), (2, 3), (3, 3), (1, 2), (2, 1), (1, 1), (4, 4), (4, 3), (3, 4), (1, 3), (4, 2),
                      (2, 4), (3, 1), (1, 4), (5, 2)))
    batches = [[1 if d.chance(20) else sizes[c] for c in "cba"[max(0, 5 - r):]] for r in ranks]
    x, w = (*batches[0], sizes["m"], sizes["k"])[-ranks[0]:], (*batches[1], sizes["k"], sizes["n"])
    if ranks[1] == 1:
        w = (sizes["k"],)
    turned = [len(s) > 1 and d.chance(25) for s in (x, w)]
    names = [f"{name}.swapaxes(-1, -2)" if t else name for name, t in zip("xw", turned, strict=True)]
    x, w = ((*s[:-2], s[-1], s[-2]) if t else s for s, t in zip((x, w), turned, strict=True))
    dtype = float_type(d)
    tail = d.one_of(("", "", "", " + 1", " * 2")) if dtype in ("float32", "float64") else ""
    body, computed = autocast(d, dtype, f"return {names[0]} @ {names[1]}{tail}")
    return Case({"x": numbers(d, x, dtype), "w": numbers(d, w, dtype)}, body, f"return {names[0]} @ {names[1]}{tail}",
                wrt=("x", "w"), dtype=computed, roundings=1 if computed == dtype else 3)


def einsum(d: Draw) -> Case:
    """Operands with random letters in random order, and any of the letters in the result."""
    count = d.one_of((2, 2, 2, 1, 3))
    letters = "abcdefg"[: d.integer(2, 6)]
    sizes = _fit(d, letters, high=300)
    used = []
    for _ in range(count):
        some = [c for c in letters if d.chance(65)][:4] or [d.one_of(letters)]
        used.append("".join(d.shuffled(some)))
    known = list(dict.fromkeys("".join(used)))
    out = "".join(d.shuffled([c for c in known if d.chance(60)]))
    dtype = float_type(d)
    arrays = {name: numbers(d, [sizes[c] for c in word], dtype) for name, word in zip("xyz", used, strict=False)}
    call = f'einsum("{",".join(used)}->{out}", {", ".join(arrays)})'
    body, computed = autocast(d, dtype, f"return dlc.{call}")
    return Case(arrays, body, f"return torch.{call}", wrt=tuple(arrays), dtype=computed,
                roundings=(1 if count < 3 else 3) if computed == dtype else 5)


def tensordot(d: Draw) -> Case:
    """Some axes of one with as many of another, wherever they are."""
    summed = d.integer(1, 2)
    sizes = _fit(d, "ijklmn"[: summed + 3])
    shared = list(sizes)[:summed]
    left = d.shuffled([*shared, *list(sizes)[summed : summed + d.integer(0, 2)]])
    right = d.shuffled([*shared, *list(sizes)[summed + 2 :]])
    dtype = float_type(d)
    axes = f"({[left.index(c) for c in shared]}, {[right.index(c) for c in shared]})"
    return Case({"x": numbers(d, [sizes[c] for c in left], dtype), "y": numbers(d, [sizes[c] for c in right], dtype)},
                f"return dlc.tensordot(x, y, axes={axes})", f"return torch.tensordot(x, y, {axes})", wrt=("x", "y"),
                dtype=dtype)


def vmapped(d: Draw) -> Case:
    """A product of one example, made to work on a batch along any axis."""
    sizes = _fit(d, "bmkn")
    body = d.one_of(("x @ t", "t @ x", "x @ t", "t @ t.swapaxes(0, 1)", "(x * t).sum(1)"))
    other = {"x @ t": "mk", "t @ x": "kn", "t @ t.swapaxes(0, 1)": "mk", "(x * t).sum(1)": "mk"}[body]
    each = {"x @ t": "kn", "t @ x": "mk", "t @ t.swapaxes(0, 1)": "mk", "(x * t).sum(1)": "mk"}[body]
    at = d.integer(0, 2)
    both = "x" in body and d.chance(30)
    out = d.integer(0, 1)
    t_shape = [sizes[c] for c in each[:at] + "b" + each[at:]]
    x_shape = [sizes[c] for c in ("b" if both else "") + other]
    dtype = float_type(d)
    arrays = {"x": numbers(d, x_shape, dtype), "t": numbers(d, t_shape, dtype)}
    names, argument = ("x, t", f"(0, {at})") if both else ("t", str(at))

    def call(library: str, into: str, out_of: str) -> str:
        return f"return {library}.vmap(lambda {names}: {body}, {into}={argument}, {out_of}={out})({names})"

    ours, theirs = call("dlc", "in_axes", "out_axes"), call("torch", "in_dims", "out_dims")
    return Case(arrays, ours, theirs, wrt=("x", "t"), dtype=dtype, roundings=2)


def linear(d: Draw) -> Case:
    """A layer with or without bias, and what often follows it."""
    sizes = _fit(d, "oiba")
    lead = [(), (sizes["a"],), (sizes["a"], sizes["b"])][d.integer(0, 2)]
    dtype = float_type(d)
    arrays = {"x": numbers(d, (*lead, sizes["i"]), dtype), "w": numbers(d, (sizes["o"], sizes["i"]), dtype)}
    if d.chance(70):
        arrays["b"] = numbers(d, (sizes["o"],), dtype)
    body, computed = autocast(d, dtype, f"return F.linear({', '.join(arrays)})")
    return Case(arrays, body, f"return T.linear({', '.join(arrays)})", wrt=tuple(arrays), dtype=computed,
                roundings=2 if computed == dtype else 4)


def bilinear(d: Draw) -> Case:
    """x1 W x2 + b."""
    sizes = _fit(d, "ijob")
    dtype = d.one_of(("float32", "float64"))
    arrays = {"x": numbers(d, (sizes["b"], sizes["i"]), dtype), "y": numbers(d, (sizes["b"], sizes["j"]), dtype),
              "w": numbers(d, (sizes["o"], sizes["i"], sizes["j"]), dtype), "b": numbers(d, (sizes["o"],), dtype)}
    return Case(arrays, "return F.bilinear(x, y, w, b)", "return T.bilinear(x, y, w, b)", wrt=tuple(arrays),
                dtype=dtype, roundings=3)


def products(d: Draw) -> Case:
    """The named products, and two products that share an operand."""
    sizes = _fit(d, "mknb")
    m, k, n, b = (sizes[c] for c in "mknb")
    shapes, ours, theirs = d.one_of((
        (((b, m, k), (b, k, n)), "dlc.bmm(x, y)", "torch.bmm(x, y)"),
        (((k,), (k,)), "dlc.dot(x, y)", "torch.dot(x, y)"),
        (((m,), (n,)), "dlc.outer(x, y)", "torch.outer(x, y)"),
        (((b, m, k), (b, m, k)), "dlc.vecdot(x, y)", "torch.linalg.vecdot(x, y)"),
        (((b, k, n), (b, k, n)), "dlc.vecdot(x, y, axis=1)", "torch.linalg.vecdot(x, y, dim=1)"),
        (((m, k), (k, n)), "(x @ y, x.sum(1), y.sum(0))", "(x @ y, x.sum(1), y.sum(0))"),
        (((m, k), (m, k)), "x.swapaxes(0, 1) @ y", "x.swapaxes(0, 1) @ y"),
        (((m, k), (n, k)), "(x @ y.swapaxes(0, 1)).sum(0)", "(x @ y.swapaxes(0, 1)).sum(0)"),
        (((m, k), (k, n)), "dlc.concat([x @ y, x @ y], axis=1)", "torch.cat([x @ y, x @ y], 1)"),
        (((m, k), (k, n)), "(x @ y)[::-1]", "(x @ y).flip(0)"),
    ))  # fmt: skip
    dtype = float_type(d)
    return Case({"x": numbers(d, shapes[0], dtype), "y": numbers(d, shapes[1], dtype)}, f"return {ours}",
                f"return {theirs}", wrt=("x", "y"), dtype=dtype, roundings=3)


FAMILIES = {f.__name__: f for f in (matmul, einsum, tensordot, vmapped, linear, bilinear, products)}
