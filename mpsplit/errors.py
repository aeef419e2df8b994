"""The errors a person can mend. Each message says what happened, with the numbers, and what to do.

The command line prints them as one line and exits with 2; anything else is a programming error and
keeps its traceback.
"""


class MpsplitError(Exception):
    """Something in the input or the surroundings is wrong, and the message says how to mend it."""


class ModelError(MpsplitError):
    """The model directory, its config or its weights cannot be used."""


class PlanError(MpsplitError):
    """The plan does not fit the model or the ranks."""


class ClusterError(MpsplitError):
    """What is said of the machines and their links cannot be."""


class ConvertError(MpsplitError):
    """A graph could not be captured or converted."""


class GraphError(MpsplitError):
    """The text of a graph cannot be read, or its shapes do not fit each other."""


class PackageError(MpsplitError):
    """The package is missing, damaged, or made by another version."""


class RunError(MpsplitError):
    """The package cannot be run like this."""


class LaunchError(MpsplitError):
    """The ranks could not be started or did not end well."""
