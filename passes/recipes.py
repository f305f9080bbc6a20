"""The passes, and the presets: named recipes that expand to a `Recipe`, which can be changed."""

from __future__ import annotations

from dataclasses import replace

from aquatint.compiler.errors import RecipeError
from aquatint.compiler.recipe import Pass, Recipe, Rule, Treatment
from aquatint.passes.absorb import Absorb
from aquatint.passes.attention import Attention
from aquatint.passes.branch import Branch
from aquatint.passes.canonicalize import Canonicalize
from aquatint.passes.epilogue import Epilogue
from aquatint.passes.fuse import Fuse
from aquatint.passes.lowrank import LowRankBranch
from aquatint.passes.observe import Observe
from aquatint.passes.quantize import Quantize
from aquatint.passes.smooth import Smooth
from aquatint.passes.sparse import Sparse
from aquatint.passes.tables import Tables

PASSES: dict[str, type] = {
    p.name: p
    for p in (Canonicalize, Smooth, LowRankBranch, Quantize, Fuse, Epilogue, Absorb, Branch, Observe, Sparse, Tables, Attention)
}

SVDQUANT: tuple[Pass, ...] = (
    Canonicalize(),
    Smooth(),  # before the split: it changes what is large in the weight
    LowRankBranch(),
    Quantize(),
    Tables(),
    Attention(),
    Fuse(),  # looks for what the others left side by side
    Epilogue(),
    Absorb(),  # behind epilogue: an activation belongs to the product before it rather than to the quantize behind it
    Branch(),  # behind fuse, which brings the way down and the quantize together
    Observe(),  # of what is left of the graph, nothing changes any more
)
WEIGHTS_ONLY: tuple[Pass, ...] = (Canonicalize(), Quantize(), Tables(), Attention(), Fuse(), Epilogue())


EMBEDDING = "an embedding of time, label or pooled text: everything depends on it, so its weights keep 8 bits"
EMBEDDED = "the first layer of an embedding: what it reads are the same few waves, and the layer behind it keeps 8 bits"
CONVOLUTION = "a k x k convolution: its branch reads every tap, so it gets a quarter of the rank"


def default_rules(treatment: Treatment, modulation: Treatment) -> tuple[Rule, ...]:
    """Everything gets `treatment`, but for the sites whose role in the dataflow says otherwise."""
    thin = replace(treatment, rank=treatment.rank // 4)
    branch = (Rule("@convolution", thin, CONVOLUTION, optional=True),) if treatment.rank else ()
    return (
        Rule("*", treatment),
        *branch,
        Rule(
            "@modulation", modulation, "one row a sample: a product with nothing to gain from quantized inputs", optional=True
        ),
        Rule("@first", None, "a first layer", optional=True),
        Rule("@last", None, "a last layer", optional=True),
        Rule("@embedding", Treatment("int8"), EMBEDDING, optional=True),  # behind @first: the first of a time's layers is both
        Rule("@first@embedding", modulation, EMBEDDED, optional=True),
    )


def _preset(name: str, passes: tuple[Pass, ...], treatment: Treatment, modulation: str) -> Recipe:
    return Recipe(name, passes, default_rules(treatment, Treatment(modulation)))


DEFAULT = "svdq-w4a8-r32-whole"
PRESETS: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _preset("svdq-w4a4-r32", SVDQUANT, Treatment("int4-g64", "int4-g64", 32), "int4-g64"),
        # whole group scales: what CUDA kernels and AMX multiply as integers; every other target runs them as fast as floats
        _preset(DEFAULT, SVDQUANT, Treatment("int4-g64-whole", "int8", 32), "int4-g64-whole"),
        _preset("svdq-w4a8-r32", SVDQUANT, Treatment("int4-g64", "int8", 32), "int4-g64"),
        _preset("nvfp4-r32", SVDQUANT, Treatment("nvfp4", "nvfp4", 32), "int4-g64"),
        _preset("w4a16", WEIGHTS_ONLY, Treatment("int4-g64"), "int4-g64"),
        _preset(
            "w8a8",
            (Canonicalize(), Smooth(), Quantize(), Tables(), Attention(), Fuse(), Epilogue(), Absorb(), Observe()),
            Treatment("int8", "int8"),
            "int8",
        ),
        _preset("w8a16", WEIGHTS_ONLY, Treatment("int8"), "int8"),
    )
}


def recipe_named(name: str) -> Recipe:
    """The preset called `name`. Raises RecipeError with the known names."""
    if name not in PRESETS:
        raise RecipeError(f"no recipe {name!r}; known: {', '.join(PRESETS)}")
    return PRESETS[name]
