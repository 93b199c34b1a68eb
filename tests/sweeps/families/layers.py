"""Normalisations, attention, recurrent layers, losses, interpolation and padding."""

from __future__ import annotations

from tests.sweeps.case import Case
from tests.sweeps.draw import Draw
from tests.sweeps.families.values import autocast, cast, normal, numbers, shape_of, size, whole

_TYPES = ("float32", "float32", "float32", "float64", "bfloat16", "float16")


def _scaled(shape: tuple[int, ...], dtype: str) -> str:
    return cast(f"(1 + 0.3 * r.standard_normal({shape}))", dtype)


def norms(d: Draw) -> Case:
    """layer_norm, rms_norm, group_norm, instance_norm, with and without weight and bias."""
    form = d.one_of(("layer", "layer", "rms", "group", "instance"))
    dtype = d.one_of(_TYPES)
    weighted, biased = d.chance(70), d.chance(60)
    if form in ("layer", "rms"):
        shape = shape_of(d, d.integer(1, 4), 30_000, 3000)
        last = d.integer(1, len(shape))
        row = shape[-last:]
        arrays = {"x": normal(shape, dtype)}
        if weighted:
            arrays["w"] = _scaled(row, dtype)
        if weighted and biased and form == "layer":
            arrays["b"] = normal(row, dtype)
        names = "".join(f"{name}, " for name in list(arrays)[1:])
        call = f"{form}_norm(x, {row}, {names}eps={d.one_of((1e-5, 1e-6, 1e-3))})"
        ours, theirs = f"F.{call}", f"T.{call}"
    else:
        groups = d.extent(32)
        channels = groups * (d.integer(1, 6) if form == "group" else 1)
        image = shape_of(d, d.integer(1, 2), max(2, 30_000 // (channels * 4)))
        image = (image[0] + 1, *image[1:])  # PyTorch refuses to standardise single values
        shape = (d.integer(1, 4), channels, *image)
        arrays = {"x": normal(shape, dtype)}
        if weighted:
            arrays |= {"w": _scaled((channels,), dtype), "b": normal((channels,), dtype)}
        names = ", ".join(list(arrays)[1:])
        if form == "group":
            ours = f"F.group_norm(x, {groups}{', ' * weighted}{names})"
            theirs = f"T.group_norm(x, {groups}{', ' * weighted}{names})"
        else:
            ours = f"F.instance_norm(x{', ' * weighted}{names})"
            theirs = f"T.group_norm(x, {channels}{', ' * weighted}{names})"
    return Case(arrays, f"return {ours}", f"return {theirs}", kind="smooth", wrt=tuple(arrays), dtype=dtype,
                terms=size(shape))


def batch_norm(d: Draw) -> Case:
    """Training, with the running statistics it updates, and evaluation; alone or behind a convolution."""
    channels = d.extent(96)
    image = shape_of(d, d.integer(0, 2), max(1, 30_000 // channels))
    shape = (d.integer(2, 9), channels, *image)
    dtype = d.one_of(("float32", "float32", "float64", "bfloat16"))
    state = "float32" if dtype == "bfloat16" else dtype
    arrays = {"x": normal(shape, dtype), "w": _scaled((channels,), state), "b": normal((channels,), state),
              "m": normal((channels,), state), "v": cast(f"(0.5 + r.random({channels}))", state)}
    training = d.chance(70)
    image_of = ("x", "x")
    if len(image) == 2 and d.chance(40):
        into, k = d.integer(1, 8), d.one_of((1, 3))
        arrays["x"] = normal((shape[0], into, *image), dtype)
        arrays["c"] = normal((channels, into, k, k), dtype)
        image_of = tuple(f"{lib}.conv2d(x, c, padding={k // 2})" for lib in "FT")
    names = ["x", "w", "b", *(["c"] if "c" in arrays else [])]
    ours, theirs = (f"m, v = m + 0, v + 0\n"
                    f"y = {lib}.batch_norm({image}, m, v, w, b, training={training}, momentum=0.2)\n"
                    f"return {name}.tanh(y), m, v" for lib, name, image in zip("FT", ("dlc", "torch"), image_of,
                                                                               strict=True))
    return Case(arrays, ours, theirs, kind="smooth", wrt=tuple(names), dtype=dtype, terms=size(shape))


def attention(d: Draw) -> Case:
    """scaled_dot_product_attention: masks, causal, other lengths of keys, grouped heads, scale."""
    dtype = d.one_of(_TYPES)
    lead = [(), (d.integer(1, 3),), (d.integer(1, 3), d.integer(1, 6))][d.one_of((2, 2, 1, 0))]
    queries, keys = d.extent(200), d.extent(200)
    e, v = d.extent(80), d.extent(80)
    kind = d.one_of(("plain", "causal", "bool", "float", "broadcast"))
    grouped = len(lead) == 2 and d.chance(20)
    heads = (*lead[:-1], lead[-1] * d.integer(1, 4)) if grouped else lead
    arrays = {"q": normal((*heads, queries, e), dtype), "k": normal((*lead, keys, e), dtype),
              "v": normal((*lead, keys, v), dtype)}
    extra = ""
    if kind in ("bool", "broadcast"):
        shape = (queries, keys) if kind == "bool" else (1, keys)
        arrays["m"] = f"(r.random({shape}) < 0.7) | (np.arange({keys}) == 0)"
        extra = ", attn_mask=m"
    elif kind == "float":
        arrays["m"] = normal((queries, keys), dtype)
        extra = ", attn_mask=m"
    elif kind == "causal":
        extra = ", is_causal=True"
    if d.chance(20):
        extra += ", scale=0.3"
    if grouped:
        extra += ", enable_gqa=True"
    call = f"scaled_dot_product_attention(q, k, v{extra})"
    body, computed = autocast(d, dtype, f"return F.{call}")
    return Case(arrays, body, f"return T.{call}", kind="smooth", wrt=("q", "k", "v"), dtype=computed, terms=keys)


def multihead(d: Draw) -> Case:
    """nn.MultiheadAttention with weights in common with PyTorch's."""
    heads = d.integer(1, 4)
    e, length, batch = heads * d.integer(1, 16), d.extent(40), d.integer(1, 3)
    bias = d.chance(70)
    shape = (batch, length, e)
    arrays = {"x": normal(shape, "float32"), "wi": normal((3 * e, e), "float32", 0.3),
              "wo": normal((e, e), "float32", 0.3), "bi": normal((3 * e,), "float32"), "bo": normal((e,), "float32")}
    causal = d.chance(40)
    mask = f"torch.triu(torch.ones({length}, {length}, dtype=torch.bool), 1)" if causal else "None"
    ours = (f"h = lambda y: y.reshape({batch}, {length}, {heads}, {e // heads}).swapaxes(1, 2)\n"
            f"q, k, v = dlc.split(F.linear(x, wi{', bi' if bias else ''}), {e}, axis=-1)\n"
            f"y = F.scaled_dot_product_attention(h(q), h(k), h(v), is_causal={causal})\n"
            f"return F.linear(y.swapaxes(1, 2).reshape({batch}, {length}, {e}), wo{', bo' if bias else ''})")
    theirs = (f"x = x.swapaxes(0, 1)\n"
              f"y = T.multi_head_attention_forward(x, x, x, {e}, {heads}, wi, {'bi' if bias else 'None'}, None, None, "
              f"False, 0.0, wo, {'bo' if bias else 'None'}, need_weights=False, attn_mask={mask})[0]\n"
              f"return y.swapaxes(0, 1)")
    return Case(arrays, ours, theirs, kind="smooth", wrt=("x", "wi", "wo"), terms=length)


def recurrent(d: Draw) -> Case:
    """RNN, LSTM and GRU: layers, directions, batch first, with and without bias and first state."""
    kind = d.one_of(("RNN", "LSTM", "GRU"))
    i, h = d.extent(40), d.extent(40)
    t, batch = d.extent(25), d.integer(1, 6)
    layers, both, first, bias = d.one_of((1, 1, 2)), d.chance(30), d.chance(50), d.chance(80)
    directions = 2 if both else 1
    gates = {"RNN": 1, "LSTM": 4, "GRU": 3}[kind]
    dtype = d.one_of(("float32", "float32", "float64"))
    shape = (t, i) if d.chance(10) else (batch, t, i) if first else (t, batch, i)
    states = (layers * directions, h) if len(shape) == 2 else (layers * directions, batch, h)
    arrays = {"x": normal(shape, dtype), "s": normal(states, dtype), "c": normal(states, dtype)}
    names = []
    for layer in range(layers):
        for direction in range(directions):
            suffix = f"l{layer}" + "_reverse" * direction
            inner = i if layer == 0 else h * directions
            arrays[f"weight_ih_{suffix}"] = normal((gates * h, inner), dtype, 0.3)
            arrays[f"weight_hh_{suffix}"] = normal((gates * h, h), dtype, 0.3)
            names += [f"weight_ih_{suffix}", f"weight_hh_{suffix}"]
            if bias:
                arrays[f"bias_ih_{suffix}"] = normal((gates * h,), dtype)
                arrays[f"bias_hh_{suffix}"] = normal((gates * h,), dtype)
                names += [f"bias_ih_{suffix}", f"bias_hh_{suffix}"]
    options = f"{layers}, bias={bias}, batch_first={first}, bidirectional={both}"
    state = "" if d.chance(30) else ", (s, c)" if kind == "LSTM" else ", s"
    weights = f"{{{', '.join(f'{name!r}: {name}' for name in names)}}}"
    out = "return (y, *end)" if kind == "LSTM" else "return y, end"
    made = f".{kind}({i}, {h}, {options}, dtype="
    before = (f"ours = nn{made}dlc.{dtype})\ntheirs = torch.nn{made}torch.float64)\n{_CALL}")
    return Case(arrays, f"y, end = call(ours, {weights}, x{state})\n{out}",
                f"y, end = torch.func.functional_call(theirs, {weights}, (x{state or ','}))\n{out}", kind="smooth",
                wrt=("x", *names), dtype=dtype, terms=t, before=before)


# A layer with other weights than its own, for a moment.
_CALL = """\
def call(layer, weights, *arguments):
    own = dict(layer._parameters)
    layer._parameters.update(weights)
    try:
        return layer(*arguments)
    finally:
        layer._parameters.update(own)
"""


def losses(d: Draw) -> Case:
    """All losses and reductions."""
    dtype = d.one_of(("float32", "float32", "float64", "bfloat16"))
    reduction = d.one_of(("mean", "sum", "none"))
    form = d.one_of(("cross_entropy", "cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss",
                     "huber_loss", "binary_cross_entropy_with_logits", "binary_cross_entropy", "kl_div", "soft"))
    if form in ("cross_entropy", "nll_loss", "soft"):
        classes, n = d.extent(400), d.extent(200)
        more = (d.integer(1, 6),) if d.chance(30) else ()
        arrays = {"x": normal((n, classes, *more), dtype)}
        arrays["t"] = cast(f"r.dirichlet(np.ones({classes}), {n})", dtype) if form == "soft" else whole(
            (n, *more), "int64", 0, classes)
        if form == "soft":
            arrays["x"] = normal((n, classes), dtype)
        options = f"reduction='{reduction}'"
        if form == "cross_entropy" and d.chance(40):
            arrays["w"] = cast(f"(0.5 + r.random({classes}))", dtype)
            options += ", weight=w"
        if form != "nll_loss" and d.chance(40):
            options += ", label_smoothing=0.1"
        if form == "cross_entropy" and d.chance(30):
            options += ", ignore_index=0"
            arrays["t"] = f"np.append(r.integers(0, {classes}, {size((n, *more)) - 1}), {classes - 1})"
            arrays["t"] += f".reshape({(n, *more)})"
        name = "cross_entropy" if form == "soft" else form
        return Case(arrays, f"return F.{name}(x, t, {options})", f"return T.{name}(x, t, {options})", kind="smooth",
                    wrt=("x",), dtype=dtype, terms=n * classes)
    shape = shape_of(d, d.integer(1, 3), 20_000, 3000)
    arrays = {"x": normal(shape, dtype), "t": normal(shape, dtype)}
    if form == "binary_cross_entropy":
        arrays = dict.fromkeys("xt", cast(f"r.uniform(0.05, 0.95, {shape})", dtype))
    elif form == "binary_cross_entropy_with_logits":
        arrays["t"] = cast(f"r.uniform(0.05, 0.95, {shape})", dtype)
    elif form == "kl_div":
        arrays["t"] = cast(f"(0.1 + r.random({shape}))", dtype)
    elif "l1" in form or "huber" in form:  # derivatives jump where both are equal, or 1 apart
        arrays = {"x": cast(f"(r.integers(-20, 20, {shape}) / 4 + 0.1)", dtype),
                  "t": cast(f"(r.integers(-20, 20, {shape}) / 4)", dtype)}
    call = f"{form}(x, t, reduction='{reduction}')"
    return Case(arrays, f"return F.{call}", f"return T.{call}", kind="smooth", dtype=dtype, terms=size(shape),
                wrt=("x",) if form in ("kl_div", "binary_cross_entropy") else ("x", "t"))


_ACTIVATIONS = ("elu", "celu", "selu", "gelu", "sigmoid", "logsigmoid", "silu", "mish", "softplus", "softsign", "tanh",
                "tanhshrink", "softmax", "log_softmax", "softmin", "normalize", "gelu tanh", "glu")
_KINKED = ("relu", "relu6", "leaky_relu", "hardtanh", "hardsigmoid", "hardswish", "threshold", "prelu")


def activations(d: Draw) -> Case:
    """Functions of one tensor; those with kinks at values that keep away from them."""
    shape = shape_of(d, d.integer(1, 4), 30_000, 5000)
    dtype = d.one_of(_TYPES)
    form = d.one_of((*_ACTIVATIONS, *_KINKED))
    arrays = {"x": normal(shape, dtype, 2)}
    dim = d.integer(-1, len(shape) - 1)
    options = {"softmax": f", dim={dim}", "log_softmax": f", dim={dim}", "softmin": f", dim={dim}",
               "normalize": f", dim={dim}", "gelu tanh": ", approximate='tanh'", "threshold": ", 0.1, 20.0",
               "glu": ", -1"}.get(form, "")
    if form == "glu":
        shape = (*shape[:-1], 2 * shape[-1])
        arrays = {"x": normal(shape, dtype)}
    if form in _KINKED:
        arrays = {"x": cast(f"(r.integers(-20, 20, {shape}) / 4 + 0.125)", dtype)}
    if form == "prelu":
        shape = (d.integer(1, 4), *shape)
        arrays = {"x": cast(f"(r.integers(-20, 20, {shape}) / 4 + 0.125)", dtype),
                  "w": cast(f"r.random({d.one_of((1, shape[1]))})", dtype)}
        options = ", w"
    call = f"{form.split()[0]}(x{options})"
    # PyTorch's slope of hardsigmoid is the float32 next to 1/6, in float64 too
    theirs = "torch.clamp(x / 6 + 0.5, 0, 1)" if form == "hardsigmoid" else f"T.{call}"
    return Case(arrays, f"return F.{call}", f"return {theirs}", kind="smooth", wrt=tuple(arrays), dtype=dtype,
                terms=size(shape) if form == "prelu" else shape[dim] if "dim" in options else 1)


def resizes(d: Draw) -> Case:
    """interpolate of both modes, and the borders of F.pad."""
    n = d.integer(1, 2)
    image = tuple(d.extent(40) for _ in range(n))
    shape = (d.integer(1, 3), d.integer(1, 6), *image)
    dtype = d.one_of(("float32", "float32", "float64"))
    if d.chance(50):
        mode = d.one_of(("constant", "reflect", "replicate", "circular"))
        widths: list[int] = []
        for extent in reversed(image):
            most = {"reflect": extent - 1, "circular": extent}.get(mode, 5)
            low = -(extent // 3) if mode == "constant" else 0
            widths += [d.integer(low, min(5, most)), d.integer(low, min(5, most))]
        value = ", value=2.0" if mode == "constant" and d.chance(50) else ""
        call = f"pad(x, {tuple(widths)}, mode='{mode}'{value})"
        return Case({"x": numbers(d, shape, dtype)}, f"return F.{call}", f"return T.{call}", wrt=("x",), dtype=dtype)
    to = tuple(d.extent(60) for _ in range(n))
    mode = d.one_of(("nearest", "linear" if n == 1 else "bilinear"))
    options = f"mode='{mode}'" + (f", align_corners={d.chance(50)}" if mode != "nearest" else "")
    sizes = f"size={to}" if d.chance(60) else f"scale_factor={d.one_of((2, 3, 4))}"
    if mode == "nearest" and sizes.startswith("size"):
        # float32 steps of PyTorch's choose another neighbour for some sizes
        sizes = f"scale_factor={d.one_of((2, 3, 4))}"
    call = f"interpolate(x, {sizes}, {options})"
    return Case({"x": normal(shape, dtype)}, f"return F.{call}", f"return T.{call}", kind="smooth", wrt=("x",),
                dtype="float32", terms=size(shape))


FAMILIES = {f.__name__: f for f in (norms, batch_norm, attention, multihead, recurrent, losses, activations, resizes)}
