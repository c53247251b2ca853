"""Which linears of a graph a site means, and why a site may not be edited there."""

from __future__ import annotations

from collections.abc import Iterator

from foldrank.graph.view.decoder import Decoder, Linear
from foldrank.sites import Site


def targets(site: Site, decoder: Decoder) -> list[Linear]:
    """The linears that hold the site's roles, each once, in the site's order. Call after `misfits` found nothing."""
    by_role = decoder.by_number[site.block].by_role
    return list(dict.fromkeys(by_role[role] for role in site.roles))


def column_spans(site: Site, decoder: Decoder) -> dict[str, slice]:
    """Columns of each role within the site's own matrix [in, out]."""
    by_role = decoder.by_number[site.block].by_role
    spans, start = {}, 0
    for role in site.roles:
        columns = by_role[role].columns(role)
        spans[role] = slice(start, start + columns.stop - columns.start)
        start = spans[role].stop
    return spans


def misfits(site: Site, shape: tuple[int, ...], decoder: Decoder) -> Iterator[str]:
    """Reasons not to edit this site, whose matrix the plan says is `shape`."""
    block = decoder.by_number.get(site.block)
    if block is None:
        yield f"{site}: block {site.block} is not in the graph"
        return
    if paired := [pair for pair in block.pairs if set(pair.sites) & set(site.parts) or site in pair.sites]:
        yield f"{site}: is a low-rank pair already (rank {paired[0].rank})"
        return
    if missing := [role for role in site.roles if role not in block.by_role]:
        opaque = f"; not plain matrices: {', '.join(block.opaque)}" if block.opaque else ""
        yield f"{site}: no MatMul with a dense weight for {', '.join(missing)}{opaque}"
        return
    linears = targets(site, decoder)
    if any(linear.interleaved for linear in linears) and set("qkv") & set(site.roles) not in (set(), set("qkv")):
        yield f"{site}: its weight holds q, k, v head by head, which can only be replaced together"
    if not all(linear.reads_as(linears[0]) for linear in linears):
        yield f"{site}: its roles do not read one input"
    spans = column_spans(site, decoder)
    found = (linears[0].shape[0], spans[site.roles[-1]].stop)
    if found != tuple(shape):
        yield f"{site}: weight is {found}, plan says {tuple(shape)}"
