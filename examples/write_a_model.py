"""Two models written by hand: a single linear, and a decoder of two layers.

    mpirun -np 2 python examples/write_a_model.py FOLDER

In: a folder for their packages. Out: a line a rank and model: how far its logits are from numpy's.
"""

import sys
from pathlib import Path

import numpy as np

from mpsplit.comm import world
from mpsplit.export.written_package import WrittenModel, whole_shapes, write_package
from mpsplit.graph.graph_builder import GraphBuilder
from mpsplit.package.collectives import STAGE
from mpsplit.package.manifest import Rope
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import even_plan
from mpsplit.runtime.load import load_engine

HIDDEN, DIM, WORDS, TOKENS = 64, 16, 100, np.array([3, 14, 15, 92, 65, 35])
SIZES = dict(hidden=HIDDEN, heads=4, kv_heads=2, head_dim=DIM, mlp=96, vocabulary=WORDS, context=64, tied=False)
ANGLES = 10000.0 ** (-np.arange(0, DIM, 2) / DIM)


def linear(g, name, x, n):
    return g.step("linear", x, g.weight("w", f"f32[{n}, {x.type.shape[-1]}]", f"{name}.weight"))


def norm(g, name, x):
    return g.step("rms_norm", x, g.weight("w", f"f32[{HIDDEN}]", f"{name}.weight"), epsilon=1e-6)


def summed(g, x):
    return g.step("all_reduce", x, group=STAGE)


def one_linear(shard):
    """The graph of a rank; its shard says how many heads, columns and rows it has."""
    g = GraphBuilder("the next token by the last one alone")
    x = summed(g, g.input("hidden", f"f32[rows, {HIDDEN}]"))
    g.output(x, "hidden_out")
    g.output(linear(g, "lm_head", g.step("wanted_rows", x), len(shard.head)), "logits")
    return g.graph()


def decoder(shard):
    heads, kv_heads = len(shard.heads), len(shard.kv_heads)

    def layer(g, x):
        y = norm(g, "model.layers.{layer}.input_layernorm", x)
        each = ("q", heads), ("k", kv_heads), ("v", kv_heads)
        q, k, v = (linear(g, f"model.layers.{{layer}}.self_attn.{name}_proj", y, n * DIM) for name, n in each)
        y = g.step("attention", q, k, v, heads=heads, kv_heads=kv_heads, head_dim=DIM, scale=DIM**-0.5)
        x = g.step("add", x, summed(g, linear(g, "model.layers.{layer}.self_attn.o_proj", y, HIDDEN)))
        y = norm(g, "model.layers.{layer}.post_attention_layernorm", x)
        gate, up = (linear(g, f"model.layers.{{layer}}.mlp.{name}_proj", y, len(shard.mlp)) for name in ("gate", "up"))
        y = g.step("multiply", g.step("silu", gate), up)
        return g.step("add", x, summed(g, linear(g, "model.layers.{layer}.mlp.down_proj", y, HIDDEN)))

    g = GraphBuilder("a decoder")
    (x,) = g.repeat("layer", range(2), {"x": summed(g, g.input("hidden", f"f32[rows, {HIDDEN}]"))}, layer)
    g.output(x, "hidden_out")
    g.output(linear(g, "lm_head", norm(g, "model.norm", g.step("wanted_rows", x)), len(shard.head)), "logits")
    return g.graph()


def in_numpy(w, tokens, layers):
    def linear(name, x):
        return x @ w[f"{name}.weight"].T

    def norm(name, x):
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + 1e-6) * w[f"{name}.weight"]

    def turned(x):  # [rows, heads, dim]: each half of a head by the angles of its row
        turns = np.exp(1j * np.outer(np.arange(len(x)), ANGLES))[:, None]
        z = (x[..., : DIM // 2] + 1j * x[..., DIM // 2 :]) * turns
        return np.concatenate([z.real, z.imag], -1)

    x = w["model.embed_tokens.weight"][tokens].astype(np.float64)
    for i in range(layers):
        at = f"model.layers.{i}"
        y = norm(f"{at}.input_layernorm", x)
        q, k, v = (linear(f"{at}.self_attn.{name}_proj", y).reshape(len(x), -1, DIM) for name in "qkv")
        q, k, v = turned(q), turned(k).repeat(2, 1), v.repeat(2, 1)
        scores = np.exp(np.einsum("ihd,jhd->hij", q, k) * DIM**-0.5) * np.tri(len(x))
        y = np.einsum("hij,jhd->ihd", scores / scores.sum(-1, keepdims=True), v).reshape(len(x), -1)
        x = x + linear(f"{at}.self_attn.o_proj", y)
        y = norm(f"{at}.post_attention_layernorm", x)
        gate, up = linear(f"{at}.mlp.gate_proj", y), linear(f"{at}.mlp.up_proj", y)
        x = x + linear(f"{at}.mlp.down_proj", gate / (1 + np.exp(-gate)) * up)
    return linear("lm_head", norm("model.norm", x) if layers else x)


GRAPHS = {"one-linear": (one_linear, 0), "decoder": (decoder, 2)}


def made_up(name):
    """The model of this name; its weights are random, and as large as the graph of one rank."""
    graph_of, layers = GRAPHS[name]
    facts, random = ModelFacts("LlamaForCausalLM", layers=layers, **SIZES), np.random.default_rng(0)
    shapes = whole_shapes(facts, graph_of).items()
    weights = {name: random.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes}
    return WrittenModel(name, facts, Rope(tuple(ANGLES), 1.0), weights, graph_of)


def run(folder, comm):
    for model in map(made_up, GRAPHS):
        write_package(model, even_plan(model.facts, comm.size, 1), folder / model.name, comm, force=True)
        engine = load_engine(folder / model.name, comm)
        expected = in_numpy(model.weights, TOKENS, model.facts.layers)[:, [*engine.vocabulary]]
        apart = np.abs(engine.step(TOKENS, 0, True) - expected).max()
        print(f"{model.name}: logits {engine.vocabulary}, of rank {comm.rank}, are within {apart:.0e} of numpy's")
        assert apart < 1e-5


if __name__ == "__main__":
    run(Path(sys.argv[1]), world()) if len(sys.argv) == 2 else sys.exit(__doc__)
