"""The collectives as ncnn layers in Python, for the stock engine: the wheel's own classes, the
communicator by closure.

In: a net, the groups by id. Out: the net knows AllReduce, AllGather, Broadcast, Send and Recv. Each
reads its integers from the parameters 1, 2, ... in the order of the table of collectives.
"""

from __future__ import annotations

import ncnn
import numpy as np

from mpsplit.comm import Communicator
from mpsplit.package.collectives import COLLECTIVES, Collective


class CollectiveLayer(ncnn.Layer):
    """One input, one output of the same shape, unless a subclass says otherwise."""

    def __init__(self, groups: dict[int, Communicator], collective: Collective):
        ncnn.Layer.__init__(self)
        self.one_blob_only = True
        self.groups, self.collective = groups, collective

    def load_param(self, params: ncnn.ParamDict) -> int:
        values = [params.get(i, -1) for i in range(1, len(self.collective.arguments) + 1)]
        group = self.groups.get(values[0])
        if group is None or -1 in values:
            return -1  # ncnn then refuses the graph
        self.group, self.argument = group, values[-1]  # the last one, where there is more than the group
        return 0


class InPlace(CollectiveLayer):
    def __init__(self, groups: dict[int, Communicator], collective: Collective):
        super().__init__(groups, collective)
        self.support_inplace = True

    def forward_inplace(self, blob: ncnn.Mat, option: ncnn.Option) -> int:
        self.act(blob.numpy())
        return 0


class AllReduce(InPlace):
    def act(self, x: np.ndarray) -> None:
        self.group.all_reduce(x)


class Broadcast(InPlace):
    def act(self, x: np.ndarray) -> None:
        self.group.broadcast(x, self.argument)


class Send(InPlace):
    def act(self, x: np.ndarray) -> None:
        self.group.send(x, self.argument)


class Recv(InPlace):
    def act(self, x: np.ndarray) -> None:
        self.group.recv(x, self.argument)


class AllGather(CollectiveLayer):
    def forward(self, bottom: ncnn.Mat, top: ncnn.Mat, option: ncnn.Option) -> int:
        give(top, self.group.all_gather(bottom.numpy()))
        return 0


def give(top: ncnn.Mat, y: np.ndarray) -> None:
    """Makes a layer's output from an array [rows, n], or of three axes; clone_from would keep
    pointing at numpy's memory."""
    top.create(*reversed(y.shape))
    top.numpy()[:] = y


CLASSES = {cls.__name__: cls for cls in (AllReduce, AllGather, Broadcast, Send, Recv)}


def register(net: ncnn.Net, groups: dict[int, Communicator]) -> list[CollectiveLayer]:
    """Makes the net know the collectives; returns the list that keeps the layers alive as long as
    the net."""
    alive: list[CollectiveLayer] = []

    def creator(collective: Collective):
        def create() -> CollectiveLayer:
            alive.append(CLASSES[collective.layer](groups, collective))
            return alive[-1]

        return create

    for collective in COLLECTIVES:
        net.register_custom_layer(collective.layer, creator(collective), lambda layer: None)
    return alive
