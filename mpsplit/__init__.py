"""mpsplit takes a Vicuna-class model apart so that machines which cannot hold it can run it together.

The tree reads in the order in which data flows: plan -> export -> package -> runtime -> serve.
"""

__version__ = "0.1.0"
