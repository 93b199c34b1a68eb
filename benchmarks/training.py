"""Cases that train: one iteration is forward + backward + Adam(lr 1e-3) on a fixed batch.

torch and dlc share the model's text, which takes the library as an argument: dlc.nn follows torch.nn. JAX has its own,
a pure function of parameters under the same names. All start from torch's initial weights.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks.case import Arrays, Case, Floor, Program

LEARNING_RATE = 1e-3
PARAM, BUFFER, BATCH = "param.", "buffer.", "batch."


@dataclass(frozen=True)
class Training:
    """A training step for all peers.

    Attributes:
        name: of the case.
        model: from the library (torch or dlc) and the dropout rate to a Module.
        loss: from the library, the model and the batch to a scalar Tensor.
        jax_loss: from `benchmarks.jax_layers.Scope` (parameters, buffers, randomness) and the batch to a scalar.
        batch: the batch's arrays, in order.
        bf16: parameters stay float32, contractions work in bfloat16.
        dropout: rate of all Dropout layers.
        noise: relative error of the loss after four steps in float32 that rounding alone may cause.
    """

    name: str
    model: Callable[[Any, float], Any]
    loss: Callable[..., Any]
    jax_loss: Callable[..., Any]
    batch: Callable[[np.random.Generator], list[np.ndarray]]
    bf16: bool = False
    dropout: float = 0.0
    noise: float = 5e-3


def training_case(training: Training) -> Case:
    """The case of a training step, with all its peers."""
    return Case(
        training.name,
        inputs=lambda: _inputs(training),
        programs={
            "reference": lambda inputs: _torch(training, inputs, reference=True),
            "torch": lambda inputs: _torch(training, inputs),
            "compile": lambda inputs: _torch(training, inputs, compiled=True),
            "jax": lambda inputs: _jax(training, inputs),
            "dlc": lambda inputs: _dlc(training, inputs),
        },
        floor=_floor,
        # The first loss proves the forward pass. Adam's first step is lr wherever the gradient is not zero, so the
        # rounding of small gradients shows in the update at full size: it is compared as one vector, loosely.
        tolerance={"loss@1": 5e-3, "update@1": 0.6, "loss@4": 3e-2}
        if training.bf16
        else {"loss@1": 1e-5, "update@1": 0.1, "loss@4": training.noise},
        check_with={"dropout": np.zeros(())} if training.dropout else {},
    )


def _part(inputs: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in inputs.items() if name.startswith(prefix)}


def _outputs(loss: Any, params: Arrays, inputs: Arrays) -> Arrays:
    """The last loss, and the change of all parameters since the start, in one vector."""
    start = _part(inputs, PARAM)
    if params.keys() != start.keys():
        raise ValueError(f"parameters differ: missing or surplus {sorted(params.keys() ^ start.keys())}")
    change = [(params[name].astype(np.float64) - start[name]).ravel() for name in sorted(start)]
    return {"loss": np.asarray(loss, np.float64), "update": np.concatenate(change)}


def _inputs(training: Training) -> Arrays:
    import torch

    torch.manual_seed(0)
    model = training.model(torch, training.dropout)
    batch = training.batch(np.random.default_rng(0))
    return (
        {PARAM + name: tensor.detach().numpy() for name, tensor in model.named_parameters()}
        | {BUFFER + name: tensor.numpy() for name, tensor in model.named_buffers()}
        | {f"{BATCH}{k:02}": array for k, array in enumerate(batch)}
        | {"dropout": np.asarray(training.dropout)}
    )


def _floor(inputs: Arrays, counted: float) -> Floor:
    """Flops as the reference counted them. Bytes: each parameter and its two Adam moments are read and written once,
    the batch is read once; activations and gradients are taken to stay in the caches."""
    params = sum(array.size for array in _part(inputs, PARAM).values())
    return Floor(counted, 6 * 4.0 * params + sum(array.nbytes for array in _part(inputs, BATCH).values()))


def _torch(training: Training, inputs: Arrays, *, compiled: bool = False, reference: bool = False) -> Program:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    dtype = torch.float64 if reference else torch.float32
    model = training.model(torch, float(inputs["dropout"]))
    weights = _part(inputs, PARAM) | _part(inputs, BUFFER)
    model.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()})
    model.to(dtype)
    batch = [torch.from_numpy(array) for array in _part(inputs, BATCH).values()]
    batch = [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in batch]
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)  # torch's fastest, also on the CPU
    last: list[Any] = [None]

    def forward(*batch: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=training.bf16 and not reference):
            return training.loss(torch, model, *batch)

    if compiled:
        forward = torch.compile(forward)

    def run(k: int) -> None:
        # The reference's attention must be one that the flop counter can see into.
        with sdpa_kernel(SDPBackend.MATH) if reference else nullcontext():
            for _ in range(k):
                optimizer.zero_grad()
                last[0] = forward(*batch)
                last[0].backward()
                optimizer.step()

    def outputs() -> Arrays:
        params = {name: tensor.detach().numpy() for name, tensor in model.named_parameters()}
        return _outputs(last[0].item(), params, inputs)

    return Program(run, outputs)


def _jax(training: Training, inputs: Arrays) -> Program:
    import jax
    import jax.numpy as jnp

    from benchmarks.jax_layers import Scope, from_torch, to_torch

    params = {name: jnp.array(from_torch(array)) for name, array in _part(inputs, PARAM).items()}
    buffers = {name: jnp.array(array) for name, array in _part(inputs, BUFFER).items() if array.ndim}
    batch = [jnp.asarray(from_torch(array, image=True)) for array in _part(inputs, BATCH).values()]
    dropout = float(inputs["dropout"])

    def loss_of(params: Any, buffers: Any, key: Any, batch: Any) -> Any:
        scope = Scope(params, buffers, key, dropout, jnp.bfloat16 if training.bf16 else jnp.float32)
        return training.jax_loss(scope, *batch), scope.new_buffers

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any, batch: Any) -> Any:
        params, first, second, buffers, key, count = state
        key, subkey = jax.random.split(key)
        (loss, buffers), grads = jax.value_and_grad(loss_of, has_aux=True)(params, buffers, subkey, batch)
        count = count + 1
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, grads)
        rate, scale = LEARNING_RATE / (1 - 0.9**count), 1 / jnp.sqrt(1 - 0.999**count)
        params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) * scale + 1e-8), params, first, second)
        return (params, first, second, buffers, key, count), loss

    def zeros() -> Any:
        return jax.tree.map(jnp.zeros_like, params)

    state = [(params, zeros(), zeros(), buffers, jax.random.key(0), jnp.float32(0))]
    last: list[Any] = [None]

    def run(k: int) -> None:
        for _ in range(k):
            state[0], last[0] = step(state[0], batch)
        jax.block_until_ready((state[0], last[0]))

    def outputs() -> Arrays:
        params = {name: to_torch(np.asarray(array)) for name, array in state[0][0].items()}
        return _outputs(last[0], params, inputs)

    return Program(run, outputs)


def _dlc(training: Training, inputs: Arrays) -> Program:
    import dlc
    import dlc.nn.functional
    import dlc.optim

    model = training.model(dlc, float(inputs["dropout"]))
    model.load_state_dict(_part(inputs, PARAM) | _part(inputs, BUFFER))
    batch = [dlc.asarray(array) for array in _part(inputs, BATCH).values()]
    optimizer = dlc.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    last: list[Any] = [None]

    @dlc.jit
    def step(*batch: Any) -> Any:
        optimizer.zero_grad()
        with dlc.autocast(dlc.bfloat16) if training.bf16 else nullcontext():
            loss = training.loss(dlc, model, *batch)
        loss.backward()
        optimizer.step()
        return loss

    def run(k: int) -> None:
        for _ in range(k):
            last[0] = step(*batch)
        last[0].realize()

    def outputs() -> Arrays:
        return _outputs(last[0].item(), {name: p.numpy() for name, p in model.named_parameters()}, inputs)

    return Program(run, outputs)
