"""Which site gets what, and why: rules applied to a program, with the roles that its dataflow shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import fx

from aquatint.compiler.errors import RecipeError
from aquatint.compiler.formats import format_named
from aquatint.compiler.program import Program, Site
from aquatint.compiler.recipe import Recipe, Rule, Treatment


@dataclass(frozen=True)
class Decision:
    """What was decided for a site: a treatment, or None to keep it, with the rule or fault that decided."""

    treatment: Treatment | None
    reason: str


@dataclass(frozen=True)
class Group:
    """Sites that read the same input and are treated alike: they share smoothing, quantization and down-projection."""

    sites: tuple[Site, ...]
    source: fx.Node
    treatment: Treatment

    @property
    def name(self) -> str:
        return self.sites[0].name


def decide(program: Program, recipe: Recipe, ranks: dict[str, int]) -> dict[str, Decision]:
    """A decision for every site. `ranks` are the number of dimensions of each node (`verify.shapes`).

    Raises RecipeError when a rule that must match matches nothing, and when nothing is left to compress.
    """
    if not program.sites:
        raise RecipeError(f"{program.name} has nothing to compress: no linear and no 2-d convolution")
    roles = roles_of(program, ranks)
    for rule in recipe.rules:
        if not rule.optional and not any(rule.matches(site, roles[site.name]) for site in program.sites):
            names = ", ".join(site.name for site in program.sites[:6])
            raise RecipeError(f"rule {str(rule)!r} matches no site of {program.name}; its sites are {names} ...")
    decisions = {site.name: _decision(program, site, roles[site.name], recipe) for site in program.sites}
    if not any(d.treatment for d in decisions.values()):
        reasons = "; ".join(f"{name}: {d.reason}" for name, d in list(decisions.items())[:6])
        raise RecipeError(f"recipe {recipe.name} compresses nothing in {program.name} ({reasons})")
    return decisions


def _decision(program: Program, site: Site, roles: frozenset[str], recipe: Recipe) -> Decision:
    rule = next((r for r in reversed(recipe.rules) if r.matches(site, roles)), Rule("", None, "no rule matches"))
    why = f"{rule.reason or 'kept by a rule'} (rule {rule})"
    if rule.treatment is None:
        return Decision(None, why)
    if reason := _refusal(program, site, rule.treatment):
        return Decision(None, f"refused: {reason}")
    reason = why if rule.reason else f"rule {rule}"
    most = min(site.outputs, site.taps * site.width) // 4
    if rule.treatment.rank <= most:
        return Decision(rule.treatment, reason)
    # Beyond a quarter of the smaller side the branch is larger than the 4-bit weight that it helps.
    return Decision(replace(rule.treatment, rank=most), f"{reason}; rank capped at a quarter of the smaller side")


def _refusal(program: Program, site: Site, treatment: Treatment) -> str | None:
    weight = program.weights[site.weight]
    if bad := int((~torch.isfinite(weight)).sum()):
        return f"its weight holds {bad} NaN or Inf"
    if site.groups > 1:
        return f"a convolution in {site.groups} groups has no 4-bit operator yet"
    if len(program.users_of(site.weight)) != 1:
        return "its weight is read in more than one place"
    node = program.node_of(site)
    if site.kind == "conv2d" and not _padding_is_plain(node):
        return "its padding is given by a word"
    formats = [format_named(f) for f in (treatment.weights, treatment.activations) if f]
    reasons = [reason for f in formats if (reason := f.refusal(site.width))]
    return reasons[0] if reasons else None


def _padding_is_plain(node: fx.Node) -> bool:
    return "padding" not in str(getattr(node.target, "_overloadname", ""))


def roles_of(program: Program, ranks: dict[str, int]) -> dict[str, frozenset[str]]:
    """Roles by site, read from the dataflow alone.

    first       nothing compressible lies before it, and it is its input's only reader or sees one row a sample
    last        nothing compressible lies behind it
    embedding   sees one row a sample and feeds another such site: time, label and pooled-text embeddings
    modulation  sees one row a sample and feeds the image: adaLN and time projections
    convolution its kernel covers more than one pixel
    """
    nodes = {node: site for site in program.sites for node in program.users_of(site.weight)}
    before: set[fx.Node] = set()
    for node in program.graph.nodes:
        if any(n in before or n in nodes for n in node.all_input_nodes):
            before.add(node)
    behind: set[fx.Node] = set()
    for node in reversed(list(program.graph.nodes)):
        if any(n in behind or n in nodes for n in node.users):
            behind.add(node)
    per_sample = {site.name for node, site in nodes.items() if site.kind == "linear" and ranks[input_of(node).name] <= 2}
    roles: dict[str, frozenset[str]] = {}
    for node, site in nodes.items():
        single = site.name in per_sample
        readers = [n for n in input_of(node).users if n in nodes]
        feeds_single = single and any(nodes[n].name in per_sample for n in _next_sites(node, set(nodes)))
        found = {
            "first": node not in before and (single or len(readers) == 1),
            "last": node not in behind,
            "embedding": feeds_single,
            "modulation": single and not feeds_single,
            "convolution": site.taps > 1,
        }
        roles[site.name] = frozenset(role for role, holds in found.items() if holds)
    return roles


def _next_sites(node: fx.Node, sites: set[fx.Node]) -> Iterator[fx.Node]:
    """The sites that a node's result reaches without passing through another site."""
    seen, waiting = {node}, list(node.users)
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        if current in sites:
            yield current
        else:
            waiting.extend(current.users)


def input_of(node: fx.Node) -> fx.Node:
    """The activation that a site's product reads."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return source


def groups(program: Program, decisions: dict[str, Decision]) -> list[Group]:
    """The sites to treat, in graph order: linears on one input together, every k x k convolution for itself."""
    found: dict[object, list[Site]] = {}
    for site in program.sites:
        treatment = decisions[site.name].treatment
        if treatment is None:
            continue
        source = input_of(program.node_of(site))
        alone = site.name if site.taps > 1 or site.kind == "conv2d" else ""
        found.setdefault((source, alone, treatment), []).append(site)
    return [Group(tuple(sites), key[0], key[2]) for key, sites in found.items()]  # type: ignore[index]
