"""What to do: an ordered list of passes, and rules for which site gets what."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Protocol, runtime_checkable

from aquatint.compiler.errors import RecipeError
from aquatint.compiler.formats import format_named
from aquatint.compiler.program import Program, Site


@dataclass(frozen=True)
class Treatment:
    """How a site is stored and computed.

    weights      name of the number format of the weight
    activations  of its input, quantized on the fly; None leaves the input alone (weights only)
    rank         of the low-rank branch; 0 for none
    """

    weights: str
    activations: str | None = None
    rank: int = 0

    def __post_init__(self) -> None:
        try:
            format_named(self.weights)
            format_named(self.activations or self.weights)
        except ValueError as error:
            raise RecipeError(str(error)) from None
        if self.rank < 0:
            raise RecipeError(f"a rank of {self.rank} is below 0")

    def __str__(self) -> str:
        return f"{self.weights} x {self.activations or 'float'}" + (f" + rank {self.rank}" if self.rank else "")


@dataclass(frozen=True)
class Rule:
    """Which sites (`match`) get which treatment; None keeps a site as it is.

    match     a glob over site names ("blocks.*.to_q"); a role that the dataflow shows, as `plan.roles_of` finds it
              ("@first", "@last", "@embedding", "@modulation", "@convolution"), or several ("@first@embedding"); or a function
              of the Site
    optional  a rule that is not optional must match something
    """

    match: str | Callable[[Site], bool]
    treatment: Treatment | None = None
    reason: str = ""
    optional: bool = False

    def matches(self, site: Site, roles: frozenset[str]) -> bool:
        if callable(self.match):
            return self.match(site)
        if self.match.startswith("@"):
            return roles.issuperset(self.match[1:].split("@"))
        return fnmatchcase(site.name, self.match)

    def __str__(self) -> str:
        return self.match if isinstance(self.match, str) else getattr(self.match, "__name__", "a function")


@runtime_checkable
class Pass(Protocol):
    """One step: a frozen dataclass with typed options; it changes the program that it is given and reports by site."""

    name: ClassVar[str]
    exact: ClassVar[bool]

    def run(self, program: Program, context: Any) -> Any: ...


@dataclass(frozen=True)
class Recipe:
    """Passes in order, and rules of which the last that matches a site wins."""

    name: str
    passes: tuple[Pass, ...]
    rules: tuple[Rule, ...]

    def with_rules(self, *rules: Rule) -> Recipe:
        """The same recipe with more rules behind its own."""
        return dataclasses.replace(self, rules=(*self.rules, *rules))

    def without(self, *names: str) -> Recipe:
        """The same recipe less the passes called `names`."""
        return dataclasses.replace(self, passes=tuple(p for p in self.passes if p.name not in names))

    def to_json(self) -> dict[str, Any]:
        """As the artifact stores it; a function in a rule is stored by its name."""
        rules = [{**dataclasses.asdict(rule), "match": str(rule)} for rule in self.rules]
        return {"name": self.name, "passes": [spec(p) for p in self.passes], "rules": rules}

    @staticmethod
    def from_json(data: Mapping[str, Any], known: Mapping[str, type]) -> Recipe:
        """The recipe that `to_json` wrote; `known` are the pass classes by name."""
        rules = tuple(
            Rule(r["match"], Treatment(**r["treatment"]) if r["treatment"] else None, r["reason"], r["optional"])
            for r in data["rules"]
        )
        return Recipe(data["name"], tuple(parse_spec(text, known) for text in data["passes"]), rules)


def spec(step: Pass) -> str:
    """A pass as text: `smooth{grid=20 rows=512}`."""
    options = " ".join(f"{f.name}={getattr(step, f.name)}" for f in dataclasses.fields(step))  # type: ignore[arg-type]
    return f"{step.name}{{{options}}}" if options else step.name


def parse_spec(text: str, known: Mapping[str, type]) -> Pass:
    """The pass that `spec` printed. Raises RecipeError naming what is unknown."""
    match = re.fullmatch(r"(\w+)(?:\{(.*)\})?", text.strip())
    if not match or match[1] not in known:
        raise RecipeError(f"no pass {text!r}; known: {', '.join(known)}")
    kind = known[match[1]]
    types = {f.name: f.type for f in dataclasses.fields(kind)}
    options: dict[str, Any] = {}
    for item in (match[2] or "").split():
        name, _, value = item.partition("=")
        if name not in types:
            raise RecipeError(f"pass {match[1]} has no option {name!r}; it has: {', '.join(types) or 'none'}")
        options[name] = _option(str(types[name]), value, f"{match[1]}.{name}")
    return kind(**options)


def _option(kind: str, value: str, where: str) -> Any:
    if kind == "bool" and value in ("True", "False"):
        return value == "True"
    if kind not in ("int", "float"):
        return value
    try:
        return int(value) if kind == "int" else float(value)
    except ValueError:
        raise RecipeError(f"{where} is {value!r}, which is no {kind}") from None
