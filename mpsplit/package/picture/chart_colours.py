"""What the boxes of a Chart look like: kind of node -> colour of plan/draw/svg_elements.py, and
what it stands for."""

from __future__ import annotations

from mpsplit.package.picture.chart import ATTENTION, HIDDEN, OTHER, TALK, WEIGHTS

FILLS = {HIDDEN: "rows", TALK: "talk", WEIGHTS: "mlp", ATTENTION: "attention", OTHER: "free"}
INKS = {TALK: "card"}  # of the text, where the ordinary one cannot be read
LEGEND = ((TALK, "between ranks"), (WEIGHTS, "weights"), (ATTENTION, "attention, its cache"), (OTHER, "no weights"))
