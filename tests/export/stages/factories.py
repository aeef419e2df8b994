"""Networks that functions build, as a user writes them: MODULE:FUNCTION."""

import torch
from torch import nn


class Unet(nn.Module):
    """Whose first value is read at its end again, and which gives two outputs."""

    def __init__(self):
        super().__init__()
        self.first, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, 1)
        self.deep, self.up = nn.Conv2d(16, 16, 3, padding=1), nn.ConvTranspose2d(16, 8, 2, 2)
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        wide = torch.relu(self.first(x))
        deep = torch.relu(self.deep(torch.relu(self.down(wide))))
        return {"mask": self.last(torch.cat([wide, self.up(deep)], 1)), "deep": deep}


class Bottleneck(nn.Module):
    """Convolutions of one pixel, norms behind them, two that follow each other, and a gate."""

    def __init__(self):
        super().__init__()
        self.narrow, self.norm = nn.Conv2d(3, 24, 1, bias=False), nn.BatchNorm2d(24)
        self.middle, self.wide = nn.Conv2d(24, 24, 3, padding=1), nn.Conv2d(24, 40, 1, 2)
        self.between, self.last = nn.BatchNorm2d(40), nn.Conv2d(40, 24, 1)
        self.gate, self.up, self.down = nn.Linear(24, 36), nn.Linear(24, 36), nn.Linear(36, 5)

    def forward(self, x):
        narrow = torch.relu(self.norm(self.narrow(x)))
        last = self.last(torch.relu(self.between(self.wide(torch.relu(self.middle(narrow))))))
        rows = (last + nn.functional.max_pool2d(narrow, 2)).flatten(2).transpose(1, 2)
        return {"rows": self.down(nn.functional.silu(self.gate(rows)) * self.up(rows)), "last": last}


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        y = self.linear(x)
        return y * 2 if y.sum() > 0 else y


def unet():
    torch.manual_seed(0)
    return Unet(), {"x": torch.zeros(1, 3, 32, 32)}


def bottleneck():
    torch.manual_seed(0)
    net = Bottleneck()
    for norm in (net.norm, net.between):
        norm.running_mean = torch.randn(norm.num_features)
        norm.running_var = torch.rand(norm.num_features) + 0.5
    return net, {"x": torch.zeros(1, 3, 14, 14)}


def branches():
    return Branches(), {"x": torch.zeros(1, 4)}


def nothing():
    return None


def fails():
    raise OSError("no such weights")
