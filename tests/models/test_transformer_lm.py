"""The GPT: equality with PyTorch and with Hugging Face's files, the key-value cache, exact resumption, the command."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import dlc
from models import transformer_lm
from models.transformer_lm import GPT, Run, from_hugging_face, generate, loss_of, next_scores
from tests.models.language_checks import check_command, check_resumes_exactly, common, text

OPTIONS = common(layers=2, heads=2, width=16, context=40, vocabulary=0, batch_size=96, steps=14, weight_decay=0.1)
VOCABULARY, CONTEXT, LAYERS, HEADS, WIDTH = 13, 10, 2, 2, 128


def hugging_face_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """A small GPT-2 with random weights, named and laid out as in Hugging Face's files."""
    rng = np.random.default_rng(seed)

    def random(*shape: int, mean: float = 0.0) -> np.ndarray:
        return (mean + 0.1 * rng.standard_normal(shape)).astype(np.float32)

    out = {"wte.weight": random(VOCABULARY, WIDTH), "wpe.weight": random(CONTEXT, WIDTH)}
    for k in range(LAYERS):
        for norm in ("ln_1", "ln_2"):
            out |= {f"h.{k}.{norm}.weight": random(WIDTH, mean=1.0), f"h.{k}.{norm}.bias": random(WIDTH)}
        for name, inputs, outputs in (
            ("attn.c_attn", WIDTH, 3 * WIDTH),
            ("attn.c_proj", WIDTH, WIDTH),
            ("mlp.c_fc", WIDTH, 4 * WIDTH),
            ("mlp.c_proj", 4 * WIDTH, WIDTH),
        ):
            out |= {f"h.{k}.{name}.weight": random(inputs, outputs), f"h.{k}.{name}.bias": random(outputs)}
        out[f"h.{k}.attn.bias"] = np.tril(np.ones((1, 1, CONTEXT, CONTEXT), np.float32))
    return out | {"ln_f.weight": random(WIDTH, mean=1.0), "ln_f.bias": random(WIDTH)}


def reference_logits(tensors, tokens):
    """GPT-2 written with torch on Hugging Face's tensors: Conv1D is x @ weight + bias."""
    import torch

    F = torch.nn.functional

    def conv1d(x, name):
        return x @ tensors[name + ".weight"] + tensors[name + ".bias"]

    def norm(x, name):
        return F.layer_norm(x, (WIDTH,), tensors[name + ".weight"], tensors[name + ".bias"], eps=1e-5)

    n, length = tokens.shape
    x = tensors["wte.weight"][tokens] + tensors["wpe.weight"][:length]
    for k in range(LAYERS):
        qkv = conv1d(norm(x, f"h.{k}.ln_1"), f"h.{k}.attn.c_attn").split(WIDTH, dim=-1)
        q, key, v = (t.view(n, length, HEADS, -1).transpose(1, 2) for t in qkv)
        scores = q @ key.transpose(-1, -2) / np.sqrt(WIDTH // HEADS)
        hidden = torch.triu(torch.ones(length, length, dtype=torch.bool), 1)
        y = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
        x = x + conv1d(y.transpose(1, 2).reshape(n, length, WIDTH), f"h.{k}.attn.c_proj")
        h = F.gelu(conv1d(norm(x, f"h.{k}.ln_2"), f"h.{k}.mlp.c_fc"), approximate="tanh")
        x = x + conv1d(h, f"h.{k}.mlp.c_proj")
    return norm(x, "ln_f") @ tensors["wte.weight"].T


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_hugging_face_file(prefix: str, tmp_path: Path):
    torch = pytest.importorskip("torch")
    tensors = hugging_face_tensors()
    saved = {prefix + name: value for name, value in tensors.items()}
    dlc.save(saved | ({"lm_head.weight": tensors["wte.weight"]} if prefix else {}), tmp_path / "model.safetensors")
    model = from_hugging_face(tmp_path / "model.safetensors")
    assert (model.context, len(model.h), model.h[0].attn.heads) == (CONTEXT, LAYERS, HEADS)

    tokens = np.random.default_rng(1).integers(VOCABULARY, size=(2, CONTEXT))
    theirs = {k: torch.tensor(v, requires_grad=not k.endswith(".attn.bias")) for k, v in tensors.items()}
    expected = reference_logits(theirs, torch.tensor(tokens))
    np.testing.assert_allclose(model(dlc.asarray(tokens)).numpy(), expected.detach().numpy(), rtol=1e-4, atol=1e-4)

    following = np.random.default_rng(2).integers(VOCABULARY, size=(2, CONTEXT))
    loss_of(model, dlc.asarray(tokens), dlc.asarray(following)).backward()
    torch.nn.functional.cross_entropy(expected.flatten(0, 1), torch.tensor(following).flatten()).backward()

    grads = {name: t.grad for name, t in theirs.items() if t.grad is not None}
    for name, p in model.named_parameters():
        grad = grads[name].numpy()
        grad = grad.T if p.ndim == 2 and ".c_" in name else grad
        np.testing.assert_allclose(p.grad.numpy(), grad, rtol=1e-3, atol=1e-5, err_msg=name)


def test_files_that_hold_no_gpt2(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    dlc.save({"weight": dlc.ones(2)}, path)
    with pytest.raises(ValueError, match="holds no GPT-2: it has no wte.weight and wpe.weight"):
        from_hugging_face(path)
    tensors = hugging_face_tensors()
    del tensors["h.1.mlp.c_fc.bias"]
    dlc.save(tensors, path)
    with pytest.raises(ValueError, match="missing keys: h.1.mlp.c_fc.bias"):
        from_hugging_face(path)
    with pytest.raises(dlc.CheckpointError, match="cannot read"):
        from_hugging_face(tmp_path / "none")


def test_gpt2_has_124_million_parameters():
    p = transformer_lm.PRESETS["gpt2"]
    v, c, n, w = (p[name] for name in ("vocabulary", "context", "layers", "width"))
    tiny = sum(int(np.prod(t.shape)) for t in GPT(13, 10, 2, 2, 16).parameters())
    assert tiny == parameters(13, 10, 2, 16)
    assert parameters(v, c, n, w) == 124_439_808


def parameters(vocabulary: int, context: int, layers: int, width: int) -> int:
    return (vocabulary + context) * width + layers * (12 * width**2 + 13 * width) + 2 * width


def model_with_opinions(seed: int = 0) -> GPT:
    """A random model whose next tokens depend strongly on those before."""
    dlc.manual_seed(seed)
    model = GPT(VOCABULARY, CONTEXT, LAYERS, HEADS, 16)
    for p in model.parameters():
        p.assign(p * (10 if p.ndim == 2 else 1))
    return model


@pytest.mark.parametrize("how", [{"temperature": 0}, {"temperature": 1.0}, {"temperature": 1.5, "top_k": 5}])
def test_cache_gives_the_same_tokens(how: dict):
    model = model_with_opinions()

    def tokens(cached: bool) -> list[int]:
        dlc.manual_seed(7)
        return list(itertools.islice(generate(model, np.array([3, 1, 4]), cached=cached, **how), 4 * CONTEXT))

    with_cache = tokens(cached=True)
    assert with_cache == tokens(cached=False)
    assert len(set(with_cache)) > 2


def test_cached_scores_equal_those_of_the_whole_sequence():
    model = model_with_opinions().eval()
    tokens = np.random.default_rng(0).integers(VOCABULARY, size=(1, CONTEXT))
    whole = model(dlc.asarray(tokens)).numpy()[0]
    cache = model.empty_cache()
    for k in range(CONTEXT):
        scores = next_scores(model, dlc.asarray(tokens[:, k : k + 1]), k, cache)
        np.testing.assert_allclose(scores.numpy(), whole[k], rtol=1e-4, atol=1e-4)


def test_generation_compiles_once():
    model = model_with_opinions()
    before = sum(map(len, next_scores._entries.values()))
    list(itertools.islice(generate(model, np.arange(5)), 3 * CONTEXT))
    assert sum(map(len, next_scores._entries.values())) == before + 1


def test_loss_falls():
    dlc.manual_seed(0)
    run = Run(OPTIONS | {"dropout": 0.0}, text())
    x, y = next(iter(run.loader))
    first, second = (run.step(x, y).item() for _ in range(2))
    assert second < first


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path):
    check_resumes_exactly(Run, OPTIONS, tmp_path)


def test_command(tmp_path: Path):
    sizes = ("--layers", "1", "--heads", "2", "--width", "8", "--context", "12", "--batch-size", "4")
    check_command(transformer_lm.PRESETS, Run, tmp_path, *sizes)
