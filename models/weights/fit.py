"""Whether tensors are those of a network: names, shapes, and what a training script put before or beside them.

Names in checkpoints carry prefixes: `module.` of DataParallel, `_orig_mod.` of torch.compile, the entry of the
dictionary (`state_dict.`), the place in a wrapper (`model.1.` behind a normalisation). None is stripped because it
looks like one: of all prefixes under which any of the network's names occurs, the one that fits best is taken.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from models.counting import AUXILIARY
from models.errors import InvalidSpec, WeightsError
from models.specs import Preprocessing
from models.weights.containers import Contents

Shape = tuple[int, ...]

#: Entries of a checkpoint that belong to its training.
_TRAINING = re.compile(r"(^|\.)(optim\w*|opt|\w*optimizer\w*|\w*sched\w*|scaler|amp|criterion|rng\w*|\w*_state)(\.|$)")
_AVERAGED = re.compile(r"(^|[._])(ema|swa|average|averaged|shadow)([._]|$)")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "_orig_mod", "weights", "params")
_COUNTER = "num_batches_tracked"
#: Constants of a normalising layer; BatchNorm's running means are none.
_CONSTANT = re.compile(r"(?P<stem>(?:.*[._])?)(?<!running_)(?P<kind>mean|std|mu|sigma)")
_PARTNERS = {"mean": "std", "std": "mean", "mu": "sigma", "sigma": "mu"}
_MOST_IMAGE_CHANNELS = 4
#: Prefixes that are compared in full, the most promising first.
_MOST_PREFIXES = 8


@dataclass(frozen=True)
class Expected:
    """Names and shapes of the tensors that a network needs in evaluation, in order.

    `tied` says of a name which other names the same tensor has.
    """

    shapes: Mapping[str, Shape]
    tied: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, network: nn.Module) -> Expected:
        shapes = {k: tuple(v.shape) for k, v in network.state_dict().items() if not is_auxiliary(k)}
        owners: dict[int, list[str]] = {}
        for found in (network.named_parameters, network.named_buffers):
            for name, tensor in found(remove_duplicate=False):
                owners.setdefault(id(tensor), []).append(name)
        tied = {n: tuple(o for o in names if o != n) for names in owners.values() if len(names) > 1 for n in names}
        return cls(shapes, tied)


@dataclass(frozen=True)
class Misshapen:
    """A tensor of another shape than the network's."""

    name: str
    shape: Shape
    expected: Shape


@dataclass(frozen=True)
class Fit:
    """How a file's tensors lie on a network's names.

    `chosen` maps the network's names to the file's; `missing`, `unexpected` and `misshapen` use the network's. Not
    counted as misfits: auxiliary heads, batch counters that old files lack, and what lies outside `prefix`.
    """

    chosen: Mapping[str, str]
    total: int
    prefix: str
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: tuple[Misshapen, ...] = ()
    auxiliary: tuple[str, ...] = ()
    counters: int = 0
    outside: tuple[str, ...] = ()
    renamed: str = ""
    #: Every name below the prefix, fitting or not, with the file's.
    given: Mapping[str, str] = field(default_factory=dict)
    #: Other prefixes under which the file holds a whole set of tensors, such as the averaged weights.
    also: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.misshapen)

    @property
    def score(self) -> tuple[int, ...]:
        """Greater is better. Names go before shapes: a network that has more than the file is another one, while its
        width may yet be found. Averaged weights and optimizer state come last among equals, renamed tensors and long
        prefixes too.
        """
        named = len(self.chosen) + len(self.misshapen)
        beside = 2 * bool(_TRAINING.search(self.prefix)) + bool(_AVERAGED.search(self.prefix))
        return (
            self.fits,
            named,
            -len(self.missing),
            len(self.chosen),
            -beside,
            -len(self.unexpected),
            -bool(self.renamed),
            -len(self.prefix),
        )

    def misfit(self) -> str:
        """What is wrong, in one clause: counts and the first names."""
        parts = []
        if self.missing:
            parts.append(f"{len(self.missing)} missing {_first(self.missing)}")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} that it does not have {_first(self.unexpected)}")
        if self.misshapen:
            shown = [f"{m.name}, {m.shape} instead of {m.expected}" for m in self.misshapen]
            parts.append(f"{len(self.misshapen)} of another shape {_first(shown, '; ')}")
        return "; ".join(parts)

    def report(self, contents: Contents) -> list[str]:
        """What a person should know, a line each: what was used, what was passed over, what does not fit."""
        place = f" below `{self.prefix.rstrip('.')}`" if self.prefix else ""
        if self.fits:
            lines = [f"fits: all {self.total:,} tensors, in the {contents.container} file{place}"]
        else:
            lines = [f"does not fit: {len(self.chosen):,} of {self.total:,} tensors are in the file{place}"]
        if self.renamed:
            lines.append(f"renamed: {self.renamed}")
        if casts := self.casts(contents):
            shown = ", ".join(f"{count:,} {kind}" for kind, count in casts.items())
            lines.append(f"cast to float32: {shown} tensors")
        if contents.arrays:
            lines.append(f"taken as tensors: {contents.arrays:,} NumPy arrays")
        if self.counters and self.fits:
            lines.append(f"absent: {self.counters:,} batch counters, which evaluation does not use")
        if self.auxiliary:
            lines.append(f"ignored: auxiliary head ({len(self.auxiliary):,} tensors), which only training uses")
        beside = Counter(name.partition(".")[0] for name in (*self.outside, *contents.others))
        if beside:
            entries = [name if count == 1 else f"{name} ({count:,} entries)" for name, count in beside.items()]
            more = f" and {len(entries) - 8} more" if len(entries) > 8 else ""
            lines.append(f"ignored: {', '.join(entries[:8])}{more}")
        if self.also:
            others = ", ".join(f"--entry {prefix.rstrip('.')}" for prefix in self.also)
            lines.append(f"another set of weights in the file fits too: {others}")
        if constants := self.normalisation(contents):
            lines.append(f"the file has its own normalisation: {constants}")
        for title, names in (("missing", self.missing), ("unexpected", self.unexpected)):
            if names:
                lines.append(f"{title}: {len(names):,} {_first(names)}")
        if self.misshapen:
            shapes = [f"{m.name} is {m.shape}, expected {m.expected}" for m in self.misshapen]
            lines.append(f"misshapen: {len(shapes):,} {_first(shapes, '; ')}")
        return lines

    def casts(self, contents: Contents) -> dict[str, int]:
        """Floating types other than float32 among the tensors used, with how many there are."""
        kinds = [contents.tensors[source].dtype for source in self.chosen.values()]
        return dict(Counter(str(k).removeprefix("torch.") for k in kinds if k.is_floating_point and k != torch.float32))

    def normalisation(self, contents: Contents) -> str:
        """Constants of a normalising layer beside the network, as text; empty when there is none."""
        found = self._constants(contents)
        return "; ".join(f"{name} = {', '.join(f'{v:.4g}' for v in values)}" for name, values in found.items())

    def preprocessing(self, contents: Contents, channels: int) -> Preprocessing | None:
        """The normalisation that the file has beside the network, for images of so many channels in [0, 1].

        None when there is none, or none that such images could have.
        """
        found = self._constants(contents)
        for name, mean in found.items():
            constant = _CONSTANT.fullmatch(name)
            assert constant is not None
            std = found.get(constant["stem"] + _PARTNERS[constant["kind"]])
            if constant["kind"] not in ("mean", "mu") or std is None or not all(0 <= v <= 1 for v in (*mean, *std)):
                continue  # of images in [0, 255], say
            with contextlib.suppress(InvalidSpec):
                return Preprocessing(mean, std).of_channels(channels)
        return None

    def _constants(self, contents: Contents) -> dict[str, tuple[float, ...]]:
        """By name; those of another set of weights in the file are not meant."""
        found: dict[str, tuple[float, ...]] = {}
        for name in self.outside:
            tensor = contents.tensors[name]
            if not (_CONSTANT.fullmatch(name) and _is_small(tuple(tensor.shape)) and tensor.is_floating_point()):
                continue
            if not (tensor.is_meta or name.startswith(self.also)):
                found[name] = tuple(_written(v) for v in tensor.flatten())
        return found


def match(expected: Expected, contents: Contents, *, entry: str | None = None) -> Fit:
    """The best fit of a file's tensors on what a network expects; look at `fits` before using it.

    `entry` restricts the search to an entry of the file, such as `state_dict_ema`; raises `WeightsError` when the file
    has none.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in contents.tensors.items()}
    if entry is not None and not any(name.startswith(f"{entry}.") for name in shapes):
        entries = ", ".join(dict.fromkeys(name.partition(".")[0] for name in shapes if "." in name))
        raise WeightsError(f"{contents.path} has no entry {entry!r}; it has {entries or 'none'}.")
    best: Fit | None = None
    for renamed, rename in _RENAMES:
        names = _rename(shapes, rename)
        if renamed and all(name == source for name, source in names.items()):
            continue
        fits = [_compare(expected, shapes, names, prefix, renamed) for prefix in _prefixes(expected, names, entry)]
        for fit in fits:
            if best is None or fit.score > best.score:
                best = fit
        assert best is not None
        if best.fits:
            also = tuple(f.prefix for f in fits if f.fits and f.prefix != best.prefix)
            return replace(best, also=also)
    assert best is not None
    return best


def is_auxiliary(name: str) -> bool:
    """Whether a tensor belongs to a head that only training uses."""
    return name.startswith(AUXILIARY)


def cast(fit: Fit, contents: Contents, types: Mapping[str, torch.dtype]) -> dict[str, Tensor]:
    """The chosen tensors in the network's types, by the network's names; raises `WeightsError` for any that have no
    plain finite values.
    """
    plain: dict[str, Tensor] = {}
    for name, source in fit.chosen.items():
        tensor = contents.tensors[source]
        if tensor.is_meta or tensor.is_quantized or tensor.layout != torch.strided or tensor.is_complex():
            kind = "no" if tensor.is_meta else "quantised" if tensor.is_quantized else "no plain real"
            raise WeightsError(f"{contents.path} holds {kind} values in {name}: save the model in float32.")
        given = tensor.to(types[name])
        if not torch.isfinite(given).all():
            raise WeightsError(
                f"{contents.path} holds non-finite values in {name}: these weights give no valid prediction."
            )
        plain[name] = given
    return plain


def _prefixes(expected: Expected, names: Mapping[str, str], entry: str | None) -> list[str]:
    """Prefixes under which names of the network occur, the most frequent first."""
    counts: Counter[str] = Counter()
    for name in names:
        end = 0
        while True:
            if name[end:] in expected.shapes:
                counts[name[:end]] += 1
            cut = name.find(".", end)
            if cut < 0:
                break
            end = cut + 1
    wanted = [p for p, _ in counts.most_common() if entry is None or p.startswith(f"{entry}.")]
    return wanted[:_MOST_PREFIXES] or [_likely_prefix(names, entry)]


def _likely_prefix(names: Iterable[str], entry: str | None) -> str:
    """Where the weights are in a file that has none of the network's names: below the usual wrappers."""
    prefix = f"{entry}." if entry else ""
    while True:
        inner = [n[len(prefix) :] for n in names if n.startswith(prefix) and not _TRAINING.search(n)]
        heads = Counter(n.partition(".")[0] for n in inner if "." in n)
        head = next((h for h in _WRAPPERS if heads[h] > len(inner) / 2), None)
        if head is None:
            return prefix
        prefix += f"{head}."


def _compare(
    expected: Expected, shapes: Mapping[str, Shape], names: Mapping[str, str], prefix: str, renamed: str
) -> Fit:
    given: dict[str, str] = {}
    outside: list[str] = []
    for name, source in names.items():
        inner = name.removeprefix(prefix) if name.startswith(prefix) else None
        if inner is None or (
            inner not in expected.shapes and (_is_beside(inner, shapes[source]) or _normalises(name, names, shapes))
        ):
            outside.append(source)
        else:
            given[inner] = source
    chosen: dict[str, str] = {}
    missing: list[str] = []
    misshapen: list[Misshapen] = []
    counters = 0
    for name, shape in expected.shapes.items():
        found = [given[n] for n in (name, *expected.tied.get(name, ())) if n in given]
        if not found:
            # Files from before torch 0.4.1 lack these counters, which evaluation does not use.
            if name.endswith(_COUNTER):
                counters += 1
            else:
                missing.append(name)
        elif shapes[found[0]] != shape:
            misshapen.append(Misshapen(name, shapes[found[0]], shape))
        else:
            chosen[name] = found[0]
    surplus = [name for name in given if name not in expected.shapes]
    return Fit(
        chosen=chosen,
        total=len(expected.shapes),
        prefix=prefix,
        missing=tuple(missing),
        unexpected=tuple(name for name in surplus if not is_auxiliary(name)),
        misshapen=tuple(misshapen),
        auxiliary=tuple(name for name in surplus if is_auxiliary(name)),
        counters=counters,
        outside=tuple(outside),
        renamed=renamed,
        given=given,
    )


def _is_beside(name: str, shape: Shape) -> bool:
    """Whether a tensor that the network does not have is a script's: a bare number, an optimizer's, an average."""
    head = name.partition(".")[0]
    return ("." not in name and shape == ()) or bool(_TRAINING.search(name)) or bool(_AVERAGED.search(head))


def _normalises(name: str, names: Mapping[str, str], shapes: Mapping[str, Shape]) -> bool:
    """Whether a tensor is a mean or a deviation of a normalising layer: the file has the other one too."""
    found = _CONSTANT.fullmatch(name)
    if found is None or not _is_small(shapes[names[name]]):
        return False
    partner = found["stem"] + _PARTNERS[found["kind"]]
    return partner in names and _is_small(shapes[names[partner]])


def _written(value: Tensor) -> float:
    """A value as somebody wrote it, where that is what became it: 0.49 for float32's 0.49000000953674316."""
    short = float(f"{float(value):.7g}")
    return short if torch.equal(torch.tensor(short, dtype=value.dtype), value.cpu()) else float(value)


def _is_small(shape: Shape) -> bool:
    return 1 <= math.prod(shape) <= _MOST_IMAGE_CHANNELS


def _first(names: Iterable[str], separator: str = ", ") -> str:
    """The first three names in brackets."""
    names = list(names)
    more = f"{separator}…" if len(names) > 3 else ""
    return f"(first: {separator.join(names[:3])}{more})"


def _unwrapped(name: str) -> str:
    """Without the wrappers that DataParallel and torch.compile put around parts of a network."""
    return ".".join(part for part in name.split(".") if part not in ("module", "_orig_mod"))


def _undotted(name: str) -> str:
    """DenseNet's names from before torchvision 0.2: `norm.1` is `norm1` today."""
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2.", name)


def _as_it_is(name: str) -> str:
    return name


_RENAMES: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("", _as_it_is),
    ("`module` and `_orig_mod` inside names are left out", _unwrapped),
    ("DenseNet's old names (norm.1) are today's (norm1)", _undotted),
    ("DenseNet's old names are today's, without `module`", lambda name: _undotted(_unwrapped(name))),
)


def _rename(shapes: Mapping[str, Shape], rename: Callable[[str], str]) -> dict[str, str]:
    """New name -> name in the file; as they are where two would become one."""
    renamed = {rename(name): name for name in shapes}
    return renamed if len(renamed) == len(shapes) else {name: name for name in shapes}
