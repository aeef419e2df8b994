"""A picture of a plan that explains itself.

In: a plan, its machines and its cost. Out: SVG text, without fonts, scripts or addresses.

Columns are ranks, the way down is the way of a token: embedding, layers, head. svg_map.py draws
that way, svg_cards.py the card of each column. Invariant: whatever text comes from outside is
escaped.
"""

from __future__ import annotations

from html import escape

from mpsplit.plan.cluster import Cluster
from mpsplit.plan.draw.plan_places import RIGHT, Picture, arranged
from mpsplit.plan.draw.plan_words import bytes_text, model_text, seconds_text, slowest_text, span, speed_text, times_of
from mpsplit.plan.draw.svg_cards import cards, hosts
from mpsplit.plan.draw.svg_elements import FONT, HATCH, LETTER, box, key, label, stack
from mpsplit.plan.draw.svg_map import axis, links, stage_area
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.cost import Cost
from mpsplit.plan.price.sizes import Job
from mpsplit.plan.shards import Plan

LEGEND = (
    ("attention", "attention heads"),
    ("keys", "their keys and values"),
    ("mlp", "MLP columns"),
    ("rows", "embedding, head"),
    ("weights", "memory: weights"),
    ("cache", "cache of the context"),
    ("rest", "buffers, process"),
    ("free", "free memory"),
)

READ = (
    (
        "A column is a rank: a process with its own memory. Its area is as wide as its share of each layer, and as high"
        " as its layers."
    ),
    (
        "A token goes down through all layers. Ranks of one stage add their parts up: twice a layer, and once for the"
        " embedding."
    ),
    (
        "Links: bytes a token, both ways, and the time of a short message. Striped: keys and values that others hold"
        " too. Red frame: slowest."
    ),
)


def svg(facts: ModelFacts, plan: Plan, cluster: Cluster, job: Job, cost: Cost, name: str = "") -> str:
    """The picture; `name` is what the model is called."""
    picture = arranged(facts, plan, cluster, job, cost)
    cards_end, card_parts = cards(picture)
    links_end, link_parts = links(picture, cards_end + 34)
    parts = [
        *_headline(picture, name),
        *card_parts,
        *hosts(picture),
        *axis(picture),
        *(part for i in range(len(picture.blocks)) for part in stage_area(picture, i)),
        *link_parts,
        *_legend(links_end + 30),
    ]
    height = links_end + 128
    what = f"{model_text(facts, plan, job, name)}; {speed_text(cluster, cost)}"
    size = f'viewBox="0 0 {picture.width} {height:.0f}" width="{picture.width}" height="{height:.0f}"'
    return "\n".join(
        [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title desc"'
                f' font-family="{FONT}">'
            ),
            f'<title id="title">{escape(what)}</title>',
            f'<desc id="desc">{escape(_description(picture))}</desc>',
            HATCH,
            box(0, 0, picture.width, height, "paper", 10),
            *parts,
            "</svg>\n",
        ]
    )


def _headline(picture: Picture, name: str) -> list[str]:
    cost, end = picture.cost, picture.width - RIGHT
    parts = [
        label(24, 36, model_text(picture.facts, picture.plan, picture.job, name), 20, weight=600),
        label(24, 60, speed_text(picture.cluster, cost), 14, weight=600),
        label(24, 80, f"{slowest_text(cost)}; {bytes_text(cost.payload)} handed over a token", 12, "soft"),
        *stack(24, 92, end - 24, 10, [(colour, value) for colour, _, value in times_of(cost)], cost.token),
        label(24, 121, f"a token: {seconds_text(cost.token)}", 11.5, "soft"),
    ]
    x = 160.0
    for colour, what, value in times_of(cost):
        if value:
            text = f"{what} {seconds_text(value)}"
            parts += key(x, 121, colour, text)
            x += 30 + len(text) * 11.5 * LETTER
    return parts


def _legend(y: float) -> list[str]:
    keys = [
        part for i, (colour, text) in enumerate(LEGEND) for part in key(24 + i % 4 * 190, y + i // 4 * 20, colour, text)
    ]
    return keys + [label(24, y + 46 + 17 * i, text, 11.5, "soft") for i, text in enumerate(READ)]


def _description(picture: Picture) -> str:
    """For those who do not see it, as short as a person listens."""
    columns = [
        f"{column.name}: {block.holds}, heads {span(picture.contents(column).counts('heads'))}"
        for block in picture.blocks
        for column in block.columns
    ]
    return f"{slowest_text(picture.cost)}; " + "; ".join(columns) + "."
