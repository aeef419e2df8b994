"""What the modules of a model do, and how the weight of each is divided among the ranks of a stage.

In: nothing. Out: roles, by which families name their modules and everybody else asks for them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cut:
    """How a weight is divided among the ranks of a stage.

    The styles are Megatron's. A *colwise* linear owns output rows (axis 0 of its weight, and its
    bias). A *rowwise* one owns input columns (axis 1); its partial results are summed over the
    ranks. `along` names the Shard's range; one step of it is `unit` rows or columns (an attribute
    of ModelFacts, or 1).
    """

    style: str
    along: str
    unit: str = ""


@dataclass(frozen=True)
class Role:
    """What a module does in the model, and how its weight is cut for that."""

    name: str
    cut: Cut


EMBEDDING = Role("embedding", Cut("colwise", "embed"))
ATTENTION_NORM = Role("norm before attention", Cut("whole", "layers"))
QUERY = Role("query", Cut("colwise", "heads", "head_dim"))
KEY = Role("key", Cut("colwise", "kv_heads", "head_dim"))
VALUE = Role("value", Cut("colwise", "kv_heads", "head_dim"))
QUERY_NORM = Role("norm of a query head", Cut("whole", "heads"))
KEY_NORM = Role("norm of a key head", Cut("whole", "kv_heads"))
OUTPUT = Role("output of attention", Cut("rowwise", "heads", "head_dim"))
MLP_NORM = Role("norm before the MLP", Cut("whole", "layers"))
GATE = Role("gate", Cut("colwise", "mlp"))
UP = Role("up", Cut("colwise", "mlp"))
DOWN = Role("down", Cut("rowwise", "mlp"))
NORM = Role("last norm", Cut("whole", "head"))
HEAD = Role("head", Cut("colwise", "head"))
LINEARS = (QUERY, KEY, VALUE, OUTPUT, GATE, UP, DOWN, HEAD)
