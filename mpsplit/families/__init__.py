"""What a model's parts are called and how each is cut: a frozen table a family, one screen each.

Whoever adds a family adds its file here and nothing elsewhere.

    roles     what modules do, and how their weights are cut for that
    family    Family: what a family says of itself
    known     all of them, by the architecture that config.json names
    llama     the first of them; the others follow it, a file each
"""

from mpsplit.families.family import Family
from mpsplit.families.known import FAMILIES, family_of

__all__ = ["FAMILIES", "Family", "family_of"]
