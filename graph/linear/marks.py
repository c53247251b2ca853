"""Metadata that passes leave on nodes, and that reading an edited graph relies on."""

from __future__ import annotations

import onnx_ir as ir

from foldrank.sites import Site

MADE_BY = "foldrank.made_by"
SITE = "foldrank.site"
"""The site a made node computes, or several joined by commas, in source numbering."""
PART = "foldrank.part"
"""What a made node is to its site: A or B of a pair, the dense rest of a packed weight, their join, its bias, or
part of what is added beside it (`beside.py`)."""
COLUMNS = "foldrank.columns"
"""Roles whose columns a pair's B computes, joined by commas, where those of its site lie in several."""
BLOCK = "foldrank.block"
"""Source number of the block a node belongs to, where its name says another."""
ROLES = "foldrank.roles"
"""Roles of a linear, in storage order, joined by commas, in a graph whose names do not tell them."""

ROTATION = "rotation"
"""The part of a MatMul that turns the stream, before the first block or behind the last."""

CENTRE = "centre"
"""The part of the Sub that takes the mean off what enters the first block."""

TABLE = "table"
"""The part of a MatMul by the A of a pair that stands for the head or the table of words."""

BESIDE = "beside"
"""The part of an Add of a pair beside a linear; those of the pair's own nodes begin with it."""

def block_of(node: ir.Node) -> int | None:
    """The block number a pass gave this node, if one did."""
    text = node.metadata_props.get(BLOCK, "")
    return int(text) if text.isdecimal() and len(text) < 6 else None


def sites_of(node: ir.Node) -> tuple[Site, ...]:
    """The single-role sites that a node which a pass made computes, or a part of, in storage order."""
    written = map(Site.parse, node.metadata_props[SITE].split(","))
    own = node.metadata_props.get(COLUMNS, "")
    return tuple(part for site in written for part in site.parts if not own or part.role in own.split(","))
