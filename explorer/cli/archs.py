"""`nasrob-tui archs`: what architectures there are, what one is made of, how two differ, and random ones."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from explorer.cli.options import FormatOption, SetOption, StoreOption
from explorer.render import Column, Format, print_rows

if TYPE_CHECKING:
    from models.architectures.registry import Architecture


class NameOrCommand(TyperGroup):
    """`archs darts` is the listing of that one architecture: what is no command is a name."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["entry", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=NameOrCommand,
    help="List architectures; show one, compare two, sample some.",
    invoke_without_command=True,
    rich_markup_mode=None,
)

#: Of what a person wrote so many characters are repeated.
_MOST_TEXT = 60

Name = Annotated[
    str,
    typer.Argument(
        help="An architecture: a name, darts-random-7, nasbench201-1234, a genotype, file:PATH, torchvision:NAME, "
        "timm:NAME or package.module:factory; with options after @."
    ),
]
ClassesOption = Annotated[
    int | None, typer.Option("--num-classes", min=1, help="Classes [default: 10, or 1000 for ImageNet networks].")
]
SizeOption = Annotated[
    int | None, typer.Option("--input-size", min=1, help="Side of the images [default: 32, or the network's own].")
]
ChannelsOption = Annotated[
    int | None, typer.Option("--in-channels", min=1, help="Channels of the images [default: 3].")
]


@app.callback()
def list_(
    context: typer.Context,
    family: Annotated[str | None, typer.Option("--family", help="Only handcrafted or nas.")] = None,
    lineage: Annotated[str | None, typer.Option("--lineage", help="Only this line of designs, such as darts.")] = None,
    search: Annotated[
        str | None, typer.Option("--search", help="Only where name, alias, description or source holds this text.")
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="The table too shows every published genotype and torchvision model.")
    ] = False,
    format: FormatOption = Format.table,
) -> None:
    """List architectures, their options and where they come from; JSON and CSV have all of them."""
    if context.invoked_subcommand is not None:
        return
    from models.architectures import registry

    everything = list(registry.entries().values())
    family, lineage = _known("family", family, everything), _known("lineage", lineage, everything)
    found = [
        entry
        for entry in everything
        if family in (None, entry.family)
        and lineage in (None, entry.lineage)
        and (search is None or _mentions(entry, search))
    ]
    narrowed = any((family, lineage, search, all_))
    shown = [e for e in found if e.curated or narrowed or format is not Format.table]
    _print_entries(shown, format)
    if len(shown) < len(found):
        print(
            f"and {len(found) - len(shown)} more, published genotypes and torchvision models: --all shows them, "
            "--search and --lineage narrow the list",
            file=sys.stderr,
        )


@app.command(hidden=True)
def entry(name: Name, format: FormatOption = Format.table) -> None:
    """List one architecture."""
    from models.architectures import registry

    _print_entries([registry.find(name.partition("@")[0] if "@" in name else name)], format)


def _print_entries(shown: list[Architecture], format: Format) -> None:
    from models.architectures import registry

    rows = [_described(entry) for entry in shown]
    if format is Format.table:
        for row, entry in zip(rows, shown, strict=True):
            row["options"] = ", ".join(f"{o.name}={_option(o.default)}" for o in entry.options if not o.quiet)
    columns = [
        Column("name", "architecture"),
        Column("family", "family"),
        Column("lineage", "lineage"),
        Column("options", "options"),
        Column("description", "description"),
        Column("source", "source"),
    ]
    print_rows(rows, form=format, columns=columns, names=tuple(_described(registry.find("darts"))))


def _known(kind: str, text: str | None, entries: Sequence[Architecture]) -> str | None:
    """The family or lineage that a person means, in any case and with or without dashes.

    Raises `InvalidSpec` with the nearest names, and those of the short list, for one that nothing has.
    """
    if text is None:
        return None
    from models.errors import InvalidSpec, nearest

    def folded(name: str) -> str:
        return re.sub(r"[\s_-]", "", name).lower()

    names = {folded(getattr(entry, kind)): str(getattr(entry, kind)) for entry in entries}
    if (found := names.get(folded(text))) is not None:
        return found
    like = " or ".join(repr(name) for name in nearest(text[:_MOST_TEXT], names.values()))
    usual = ", ".join(sorted({str(getattr(entry, kind)) for entry in entries if entry.curated}))
    hint = f" Did you mean {like}?" if like else ""
    raise InvalidSpec(f"there is no {kind} {text[:_MOST_TEXT]!r}.{hint} The short list has {usual}.")


def _mentions(entry: Architecture, text: str) -> bool:
    return text.lower() in " ".join((entry.name, *entry.aliases, entry.description, entry.source)).lower()


def _option(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _described(entry: Architecture) -> dict[str, Any]:
    """A registry entry as listings print it."""
    return {
        "name": entry.name,
        "family": entry.family,
        "lineage": entry.lineage,
        "options": {o.name: o.to_dict() for o in entry.options},
        "aliases": list(entry.aliases),
        "description": entry.description,
        "source": entry.source,
        "recipe": entry.recipe,
        "genotype": entry.genotype.to_dict() if entry.genotype else None,
        "definition": entry.definition.to_dict() if entry.definition else None,
    }


@app.command()
def show(
    name: Name,
    set_: SetOption = None,
    num_classes: ClassesOption = None,
    input_size: SizeOption = None,
    in_channels: ChannelsOption = None,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Show one architecture: its cells drawn, its parameters and multiply-adds, its weights and evaluations.

    Parameters are without the auxiliary head of training; multiply-adds are those of convolutions, linear layers and
    other matrix products, for one example. A network of your own is counted for the images that the weights there are
    for it were made for, unless you say others.
    """
    from explorer import archpage, settings
    from explorer.cli.streams import foreign_code
    from explorer.jobs.planning import parse_options
    from models import counting
    from models.architectures import external, registry
    from models.architectures.options import scale_of

    entry = registry.find(name.partition("@")[0] if "@" in name else name)
    options, home = parse_options(set_ or ()), settings.load(store)
    made_for = None
    if external.is_factory(entry.name):
        made_for = archpage.dataset_of_weights(registry.parse_architecture(name, options), home)
    channels, side = made_for.image_shape[:2] if made_for else (3, entry.input_size or 32)
    classes = num_classes or (made_for.n_classes if made_for else entry.num_classes or 10)
    channels, side = in_channels or channels, input_size or side
    shape = (channels, side, side)
    with foreign_code():
        spec = registry.parse_architecture(name, options, scale=scale_of(shape))
        counts = counting.describe(spec, num_classes=classes, image_shape=shape)
    page: dict[str, Any] = {
        "architecture": spec.canonical,
        **_described(entry),
        "values": dict(spec.options),
        "num_classes": classes,
        "input_size": side,
        "in_channels": channels,
        **asdict(counts),
        **archpage.records(spec, home),
    }
    if format is Format.table:
        archpage.print_page(page, sys.stdout)
    elif format is Format.json:
        json.dump(page, sys.stdout, indent=2, ensure_ascii=False, default=str)
        sys.stdout.write("\n")
    else:
        print_rows([page], form=format)


@app.command()
def compare(first: Name, second: Name, format: FormatOption = Format.table) -> None:
    """Compare the cells of two architectures edge by edge."""
    from explorer import archpage

    archpage.print_comparison(first, second, sys.stdout, as_json=format is Format.json)


@app.command()
def sample(
    count: Annotated[int, typer.Option("--count", min=1, max=100_000, help="How many.")] = 1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="First seed to try; the next ones follow.")] = 0,
    space: Annotated[str, typer.Option("--space", help="darts or nasbench201.")] = "darts",
    min_params: Annotated[str | None, typer.Option("--min-params", help="At least so many, such as 2.5M.")] = None,
    max_params: Annotated[str | None, typer.Option("--max-params", help="At most so many, such as 3.5M.")] = None,
    set_: SetOption = None,
    num_classes: ClassesOption = None,
    input_size: SizeOption = None,
    in_channels: ChannelsOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Draw random architectures, uniformly from the space, by seed; bounds on parameters keep those that fit.

    The name says the seed (darts-random-7), so the same name is the same cell everywhere. With bounds, seeds are tried
    one after the other, so what is kept is uniform among the cells within the bounds.
    """
    from explorer import sampling
    from explorer.jobs.planning import parse_options

    side, classes = input_size or 32, num_classes or 10
    drawn = sampling.draw(
        space,
        count=count,
        seed=seed,
        options=parse_options(set_ or ()),
        bounds=(sampling.parse_count(min_params), sampling.parse_count(max_params)),
        num_classes=classes,
        image_shape=(in_channels or 3, side, side),
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    rows = [asdict(d) for d in drawn.found]
    names = ("name", "architecture", "seed", "params", "macs", "definition")
    columns = [
        Column("name", "architecture"),
        Column("seed", "seed"),
        Column("params", "params"),
        Column("macs", "multiply-adds"),
        Column("architecture", "with its options"),
    ]
    print_rows(rows, form=format, columns=columns, names=names)
    print(drawn.said, file=sys.stderr)


@app.command()
def add(
    definition: Annotated[
        str,
        typer.Argument(
            help="A file, or the text itself: a genotype, a NAS-Bench-201 string, a net_config of DenseNAS, a "
            "configuration of ProxylessNAS, codes of RobNet, a macro genome, or JSON with space and data. - reads it "
            "from stdin."
        ),
    ],
    format: FormatOption = Format.table,
) -> None:
    """Keep a definition of your own; prints the name that --arch takes."""
    from models.architectures import definitions, registry
    from models.errors import InvalidSpec

    text = definition
    if definition == "-":
        try:
            text = definitions.decoded(sys.stdin.buffer)
        except InvalidSpec as error:
            raise InvalidSpec(f"what comes from stdin {error}") from None
    elif _is_file(definition):
        text = f"file:{definition}"
    entry = registry.find(text)
    print_rows(
        [_described(entry)], form=format, columns=[Column("name", "architecture"), Column("description", "what")]
    )


def _is_file(text: str) -> bool:
    try:
        return Path(text).expanduser().is_file()
    except OSError:
        # A genotype is too long for a file's name.
        return False
