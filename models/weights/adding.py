"""Released checkpoints made ours: matched to an architecture, measured, and written with a record of where they came
from. The file that was given is only ever read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from models.architectures import definitions, densenas_inference, registry
from models.architectures.definitions import Definition
from models.architectures.registry import Architecture
from models.datasets import registry as datasets
from models.datasets.registry import Dataset
from models.errors import DataError, InvalidSpec, WeightsError
from models.specs import ArchitectureSpec, OptionValue, Preprocessing, split_options
from models.weights import containers, inference
from models.weights.catalogue import WeightsFile, WeightsRecord, read_record
from models.weights.containers import Contents
from models.weights.files import LoadedModel, load_model, model_of, save_weights
from models.weights.inference import Guess

#: A clean accuracy below this many times that of guessing is no accuracy of the model that was meant.
NEAR_CHANCE = 2.0
_MOST_OTHERS = 4

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """What a person says about a checkpoint; None is: not said, so it is read off the file or taken from the dataset.

    `architecture` may carry options; `entry` chooses among several sets of weights in the file; `source` is where the
    file was found.
    """

    path: Path
    architecture: str | None = None
    dataset: str | None = None
    options: Mapping[str, OptionValue | str] | None = None
    preprocessing: Preprocessing | None = None
    name: str | None = None
    source: str | None = None
    entry: str | None = None


@dataclass(frozen=True)
class Matched:
    """A checkpoint that fits: the model, and the record that its file would have, without accuracy yet."""

    loaded: LoadedModel
    dataset: Dataset
    record: WeightsRecord


@dataclass(frozen=True)
class Measured:
    """Clean accuracy in percent over all examples of a split; `warning` where it is no better than guessing."""

    accuracy: float
    examples: int
    split: str
    warning: str | None


def matched(wanted: Wanted, *, say: Say, software_version: str, created_at: str) -> Matched:
    """Read a checkpoint and find the size of its architecture; `say` gets the report, a line each.

    Raises `WeightsError` when it does not fit, after the report of what is missing, unexpected or misshapen, and naming
    the architectures that it does fit.
    """
    path = wanted.path.expanduser()
    if not path.exists():
        raise WeightsError(f"there is no weights file {path}.")
    record = read_record(path) if containers.recognise(path) == "safetensors" else None
    name = wanted.dataset or (record.dataset if record is not None else None)
    if name is None:
        raise WeightsError(f"{path} does not say what it was trained on: name it with --dataset.")
    dataset = datasets.find(name)
    given = wanted.preprocessing.of_channels(dataset.image_shape[0]) if wanted.preprocessing is not None else None
    if record is not None and record.dataset != dataset.name:
        raise WeightsError(f"{path} was made for {record.dataset}, not for {dataset.name}: leave --dataset out.")
    if record is not None:
        loaded = load_model(path, _named(wanted, record), dataset, preprocessing=given)
        say(f"a file with a record: {loaded.architecture.canonical} on {record.dataset}, {record.origin}")
    else:
        contents = containers.read(path)
        guess = _guess(contents, wanted, dataset, say)
        loaded = model_of(contents, guess.spec, dataset, preprocessing=given, entry=wanted.entry)
        if given is None:
            normal = loaded.preprocessing
            whose = "the file's own" if guess.fit.preprocessing(contents, len(normal.mean)) else "the dataset's"
            means, deviations = (", ".join(f"{v:.4g}" for v in values) for values in (normal.mean, normal.std))
            say(f"normalisation: {whose} (mean {means}; std {deviations}), as --mean and --std say nothing else")
        record = WeightsRecord(
            architecture=guess.spec.canonical,
            dataset=dataset.name,
            dataset_fingerprint="",
            num_classes=dataset.n_classes,
            in_channels=dataset.image_shape[0],
            mean=loaded.preprocessing.mean,
            std=loaded.preprocessing.std,
            tensors_sha256=loaded.sha256,
            origin="imported",
            geometry=dataset.geometry.text if dataset.geometry is not None else None,
            source_sha256=containers.file_sha256(path),
            software_version=software_version,
            created_at=created_at,
        )
    record = replace(
        record,
        mean=loaded.preprocessing.mean,
        std=loaded.preprocessing.std,
        name=wanted.name or record.name,
        source=wanted.source or record.source,
    )
    return Matched(loaded, dataset, record)


def already_there(match: Matched, files: Iterable[WeightsFile]) -> WeightsFile | None:
    """The file among `files` that holds the same tensors for the same architecture and dataset."""
    wanted = (match.loaded.sha256, match.record.architecture, match.record.dataset)
    for file in files:
        if (file.record.tensors_sha256, file.record.architecture, file.record.dataset) == wanted:
            return file
    return None


def measure(match: Matched, *, device: str, say: Say, root: Path | None = None) -> Measured | None:
    """Clean accuracy on the split that models are judged on; None, said to the person, when the data are not there.

    `root` is the folder that datasets lie in. Raises `EvaluationError` when the network cannot take the dataset's
    images.
    """
    from models.evaluation import Evaluator
    from models.training import loop

    dataset = match.dataset
    try:
        examples = datasets.load(dataset.name, dataset.test_split, root=root)
    except DataError as error:
        say(f"not measured: {error}")
        return None
    say(f"measuring clean accuracy on the {len(examples):,} images of {dataset.name}/{examples.split}")
    evaluator = Evaluator(match.loaded.classifier, examples, device=device)
    evaluator.check([int(i) for i in examples.subset(min(2, len(examples)))])
    accuracy = loop.accuracy(match.loaded.classifier, examples, device=device)
    chance = 100.0 / dataset.n_classes
    warning = None
    if accuracy < NEAR_CHANCE * chance:
        warning = (
            f"{accuracy:.1f} % is close to guessing ({chance:.1f} %): check the normalisation (--mean, --std), the "
            "order of the classes, and that the file was trained on this dataset"
        )
    return Measured(accuracy, len(examples), examples.split, warning)


def keep(
    match: Matched, measured: Measured | None, path: Path, *, earlier: WeightsRecord | None = None
) -> WeightsRecord:
    """Write the weights with their record; raises `OutputError` when there is no room or no permission.

    `earlier` is the record that is replaced: of a training it keeps all but the normalisation, the name and the source.
    """
    record = match.record
    if earlier is not None and earlier.origin == "trained":
        new = {key: getattr(record, key) for key in ("mean", "std", "name", "source", "source_sha256")}
        record = replace(earlier, **new)
    if measured is not None:
        record = replace(record, clean_accuracy=measured.accuracy, clean_examples=measured.examples)
    return save_weights(path, match.loaded.classifier.network, record)


def file_name(match: Matched) -> str:
    """The name of the file for a model: the person's, or the architecture and the beginning of the SHA-256."""
    if match.record.name is not None:
        if not re.fullmatch(r"[\w.@=,+-]{1,100}", match.record.name) or match.record.name.startswith("."):
            raise InvalidSpec(
                f"--name {match.record.name!r} becomes the name of a file: use letters, digits, and any of . _ - + @ ="
            )
        return f"{match.record.name}.safetensors"
    stem = re.sub(r"[^\w.@=,+-]", "_", match.record.architecture)[:150]
    return f"{stem}-{match.loaded.sha256[:8]}.safetensors"


def _named(wanted: Wanted, record: WeightsRecord) -> ArchitectureSpec | None:
    """The architecture that a person named for a file with a record; options that were not given are the record's."""
    if wanted.architecture is None:
        return None
    entry = registry.find(split_options(wanted.architecture)[0])
    name, options = split_options(record.architecture)
    given = _given(wanted, entry, wanted.architecture)
    return entry.resolve({**(options if name == entry.name else {}), **given})


def _given(wanted: Wanted, entry: Architecture, text: str) -> dict[str, OptionValue]:
    """The options in the text of an architecture and beside it, checked."""
    given = entry.named(split_options(text)[1], besides=wanted.options)
    return {key: entry.check(key, value) for key, value in given.items()}


def _guess(contents: Contents, wanted: Wanted, dataset: Dataset, say: Say) -> Guess:
    """The architecture with its size; raises `WeightsError`, after a report, when the tensors do not fit it."""
    classes, channels = dataset.n_classes, dataset.image_shape[0]
    if wanted.architecture is None:
        search = inference.identify(contents, num_classes=classes, in_channels=channels, entry=wanted.entry)
        fits = _shown(search.guesses)
        raise WeightsError(
            f"{contents.path} does not say which architecture it is for: name it with --arch."
            + (f" By names and shapes of its tensors it could be {fits}." if fits else "")
        )
    name = split_options(wanted.architecture)[0]
    entry = registry.find(_blocks_of(contents, say) if registry.is_unpublished(name) else name)
    given = _given(wanted, entry, wanted.architecture)
    guess = inference.infer(contents, entry, given, num_classes=classes, in_channels=channels, entry=wanted.entry)
    if guess is not None and not guess.fit.fits and entry.definition is not None:
        # The same cells may stand in two skeletons (NSGA-Net's): the weights know in which.
        twins = [e for e in registry.entries().values() if e.definition == entry.definition and e.name != entry.name]
        for twin in twins:
            other = inference.infer(
                contents, twin, given, num_classes=classes, in_channels=channels, entry=wanted.entry
            )
            if other is not None and other.fit.fits:
                entry, guess = twin, other
                break
    if guess is None:
        raise WeightsError(f"{entry.name} cannot be built for {dataset.name} with these options: change --set.")
    for line in guess.fit.report(contents):
        say(line)
    if guess.alike:
        say(f"the tensors do not show which: {guess.spec.canonical}, or {', '.join(guess.alike)}; --set chooses")
    if guess.fit.fits and (guess.num_classes, guess.in_channels) == (classes, channels):
        say(f"architecture: {guess.spec.canonical}")
        return guess
    if guess.fit.fits:
        raise WeightsError(
            f"{contents.path} fits {guess.spec.canonical} with {guess.num_classes} classes and {guess.in_channels} "
            f"input channels; {dataset.name} has {classes} and {channels}: name the dataset "
            "that it was trained on."
        )
    for line in inference.edge_disagreements(contents, guess)[:8]:
        say(line)
    search = inference.identify(
        contents, num_classes=classes, in_channels=channels, besides=entry.name, entry=wanted.entry
    )
    if search.guesses:
        hint = f" It fits {_shown(search.guesses)} exactly: name that with --arch."
    else:
        every = "all" if search.looked_at == search.total else f"{search.looked_at} of {search.total}"
        hint = f" Nor does it fit any other architecture ({every} of the registry's were tried)."
    raise WeightsError(
        f"{contents.path} does not fit {guess.spec.canonical}, its nearest size: tensors {guess.fit.misfit()}.{hint}"
    )


def _blocks_of(contents: Contents, say: Say) -> str:
    """The name of the DenseNAS network that the tensors are of, for one whose blocks nobody printed.

    `say` gets what the tensors leave open and how it was filled in. Raises `WeightsError` when they are of none.
    """
    stem = "input_block.0.weight"
    prefix = next((name.removesuffix(stem) for name in contents.tensors if name.endswith(stem)), "")
    shapes = {name.removeprefix(prefix): tuple(t.shape) for name, t in contents.tensors.items() if prefix in name}
    inferred = densenas_inference.infer_net_config(shapes)
    for assumption in inferred.assumptions:
        say(f"assumed: {assumption}")
    return definitions.remember(Definition.from_dict({"space": "densenas", "data": inferred.definition}))


def _shown(guesses: Iterable[Guess]) -> str:
    found = list(guesses)
    texts = [f"{g.spec.canonical} with {g.num_classes} classes" for g in found[:_MOST_OTHERS]]
    more = len(found) - len(texts)
    return " or ".join(texts) + (f" or {more} more" if more else "")
