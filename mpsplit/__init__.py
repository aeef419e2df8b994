"""mpsplit takes a Vicuna-class model apart so that machines which cannot hold it can run it
together.

The tree reads in the order in which data flows: plan -> export -> package -> runtime -> serve.
What one types is in commands, a file a command, and what several commands share in options.
"""

__version__ = "0.2.0"


def __getattr__(name: str):
    """`from mpsplit import Chat`, which the other commands need not wait for."""
    if name != "Chat":
        raise AttributeError(f"mpsplit has no {name}")
    from mpsplit.python_chat import Chat

    return Chat
