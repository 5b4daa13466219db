"""From an architecture to weights with a record: what `train`, `ensemble train` and studies do.

A single network is trained by its recipe. Of an ensemble the members are, each on its own and each resumable; then its
combiner is tuned where it has one, and the whole is written as one file. One whose members are trained together is a
single network here.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.architectures import registry as architectures
from models.architectures.options import scale_of
from models.architectures.wording import short
from models.datasets import registry as datasets
from models.datasets.registry import Dataset, Examples
from models.ensembles import composition
from models.errors import InvalidSpec
from models.specs import ArchitectureSpec, Preprocessing, digest
from models.training import recipes
from models.weights import catalogue

if TYPE_CHECKING:
    from explorer.settings import Settings
    from models.classifier import Classifier
    from models.training.loop import EpochReport, TrainingPlan
    from models.training.recipes import Recipe
    from models.weights.catalogue import WeightsRecord
    from models.weights.files import LoadedModel
    from store.connection import Store

#: The training seed of member i of an ensemble with seed S is S x 100 + i.
MEMBER_SEEDS = 100
#: Seeds are below this number: the results store keeps them in 64 bits.
_SEEDS_END = 2**63
#: File systems take names of 255 bytes; what follows the architecture's, and what a file is called while it is written,
#: needs less than the rest.
_LONGEST = 180
#: How a learned combiner is tuned.
COMBINER_RECIPE = "combiner"

#: Given the title of a training and its number of epochs: what is told of every epoch, for as long as it is open.
Watch = Callable[[str, int], AbstractContextManager[Callable[["EpochReport"], None]]]


def check_seed(seed: int, *, what: str = "the seed", most: int = _SEEDS_END - 1) -> None:
    """Raise `InvalidSpec` for a seed that no generator or store takes."""
    if not 0 <= seed <= most:
        raise InvalidSpec(f"{what} is a whole number from 0 to {most}, not {short(seed)}.")


def unwatched(title: str, epochs: int) -> AbstractContextManager[Callable[[EpochReport], None]]:
    """Tells nobody."""
    return nullcontext(lambda report: None)


@dataclass(frozen=True)
class Order:
    """What is to be trained. `recipe` None is the architecture's own, for an ensemble each member's own."""

    architecture: ArchitectureSpec
    dataset: str
    seed: int = 0
    recipe: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    #: Keys of the combiner's recipe that are to be other ones.
    combiner: Mapping[str, Any] = field(default_factory=dict)

    @property
    def entry(self) -> Dataset:
        return datasets.find(self.dataset)

    @property
    def parts(self) -> tuple[Order, ...]:
        """The orders of an ensemble's members; none for what is trained as one."""
        if not composition.is_ensemble(self.architecture.name):
            return ()
        made_of = composition.of(self.architecture)
        if made_of.joint:
            return ()
        if any(member.preprocessing is not None for member in made_of.members):
            raise InvalidSpec(
                f"{self.architecture.canonical} was picked from models that normalise images differently, and cannot "
                "be trained anew: pick it from the models that you want, with `nasrob-tui ensemble pick`."
            )
        return tuple(
            replace(self, architecture=member.spec, seed=self.seed * MEMBER_SEEDS + i)
            for i, member in enumerate(made_of.members)
        )

    def resolved(self) -> Recipe:
        """The recipe of a single network, with every override. Raises `InvalidSpec`."""
        entry = self.entry
        own = architectures.find(self.architecture.name).recipe_for(scale_of(entry.image_shape))
        return recipes.load(self.recipe or own, entry.name, self.overrides)

    def tuning(self) -> Recipe:
        """The recipe of the combiner. Raises `InvalidSpec`."""
        return recipes.load(COMBINER_RECIPE, self.entry.name, self.combiner)

    def plan(self, fingerprint: str) -> TrainingPlan:
        """The plan of a single network, for training images with this fingerprint."""
        from models.training.loop import TrainingPlan

        return TrainingPlan(self.architecture, self.entry, self.resolved(), self.seed, fingerprint)

    def combiner_plan(self, fingerprint: str, members: Iterable[str]) -> TrainingPlan:
        """The plan of an ensemble's combiner, over members of these SHA-256."""
        from models.training.loop import TrainingPlan

        return TrainingPlan(self.architecture, self.entry, self.tuning(), self.seed, fingerprint, tuple(members))

    def identity(self, fingerprint: str) -> str:
        """Hash of all that decides which weights come out."""
        parts = self.parts
        if not parts:
            return self.plan(fingerprint).identity
        made_of = composition.of(self.architecture)
        return digest(
            {
                "architecture": self.architecture.canonical,
                "members": [part.identity(fingerprint) for part in parts],
                "combiner": self.tuning().to_dict() if made_of.learned else None,
                "seed": self.seed,
            }
        )

    def path(self, settings: Settings, fingerprint: str) -> Path:
        """Where the weights are kept."""
        # A factory's name has a colon, which not every file system takes.
        named = re.sub(r"[^\w.@=,-]+", "-", self.architecture.canonical)
        identity = self.identity(fingerprint)
        return settings.weights / self.entry.slug / f"{named[:_LONGEST]}-seed{self.seed}-{identity[:8]}.safetensors"

    def check(self) -> None:
        """Raise `InvalidSpec` now for what would be refused in the middle."""
        check_seed(self.seed, what="the training seed")
        if parts := self.parts:
            # The last member has the largest seed.
            most = (_SEEDS_END - len(parts)) // MEMBER_SEEDS
            check_seed(self.seed, what=f"the training seed of {self.architecture.canonical}", most=most)
        for part in parts:
            if part.resolved().auxiliary_weight > 0 and not architectures.find(part.architecture.name).auxiliary:
                raise InvalidSpec(
                    f"{part.architecture.name} has no auxiliary head: use --set-recipe auxiliary_weight=0."
                )
        if parts:
            self.tuning()
        else:
            self.resolved()


@dataclass(frozen=True)
class Trained:
    """Weights with their record. `fresh` tells whether they were trained now."""

    record: WeightsRecord
    path: Path
    fresh: bool


@dataclass(frozen=True)
class Trainer:
    """Where and how trainings run. `say` gets sentences for the person, `watch` every epoch."""

    settings: Settings
    device: str = "auto"
    threads: int | None = None
    data_root: Path | None = None
    force: bool = False
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)
    watch: Watch = unwatched

    def existing(self, order: Order, *, out: Path | None = None) -> Trained | None:
        """The weights, where they were trained before exactly so; `out` is another file to look in."""
        fingerprint = self._images(order).fingerprint
        path = out.absolute() if out is not None else order.path(self.settings, fingerprint)
        record = catalogue.read_record(path) if path.exists() else None
        if record is None or (record.architecture, record.seed, record.dataset_fingerprint) != (
            order.architecture.canonical,
            order.seed,
            fingerprint,
        ):
            return None
        if order.parts:
            # Only the usual name of an ensemble's file says how each of its members was trained.
            return Trained(record, path, fresh=False) if out is None else None
        return Trained(record, path, fresh=False) if record.recipe == order.resolved().to_dict() else None

    def train(self, order: Order, *, out: Path | None = None) -> Trained:
        """Train what is not trained yet and record it in the store. `out` is another file to write to.

        Raises what training raises. Interrupted, the same order goes on after the last whole epoch.
        """
        order.check()
        before = None if self.force else self.existing(order, out=out)
        if before is not None:
            self.tidy(before, order)
            self._remember(before, order)
            self.say(f"{order.architecture.canonical} is trained already (--force trains it again)")
            return before
        from store import Store

        # Where the model cannot be recorded, say so before hours of work.
        Store(self.settings.store).ensure()
        return self._ensemble(order, out) if order.parts else self._single(order, out)

    def tidy(self, trained: Trained, order: Order) -> None:
        """Remove the checkpoint of a training that was killed after its weights were written."""
        fingerprint, record = trained.record.dataset_fingerprint, trained.record
        if not order.parts:
            plan = order.plan(fingerprint)
        elif composition.of(order.architecture).learned:
            plan = order.combiner_plan(fingerprint, [member["sha256"] for member in record.members or ()])
        else:
            return
        _discard_outlived(self._checkpoint_of(plan), trained.path)

    def _remember(self, trained: Trained, order: Order) -> None:
        """Note the model in the store where a training was killed after its file was written, or in another store."""
        from store import Store, results
        from store.errors import StoreNotFound

        store = Store(self.settings.store)
        with contextlib.suppress(StoreNotFound):
            if results.has_model(store, trained.record.tensors_sha256, trained.record.architecture):
                return
        record_model(store, order.architecture, order.entry, self._load(trained, order).classifier, trained)

    def _images(self, order: Order) -> Examples:
        return datasets.load(order.dataset, "train", root=self.data_root)

    def _single(self, order: Order, out: Path | None) -> Trained:
        from models.training import loop

        examples = self._images(order)
        plan = order.plan(examples.fingerprint)
        path = out.absolute() if out is not None else order.path(self.settings, examples.fingerprint)
        checkpoint = self._checkpoint(plan, path)
        with self.watch(order.architecture.canonical, plan.recipe.epochs) as told:
            classifier = loop.train(plan, examples, device=self._device(), checkpoint=checkpoint, on_epoch=told)
        recipe = plan.recipe
        trained = self._keep(
            order,
            classifier,
            path=path,
            normal=order.entry.preprocessing,
            recipe_name=recipe.name,
            recipe=recipe.to_dict(),
        )
        _discard(checkpoint)
        return trained

    def _ensemble(self, order: Order, out: Path | None) -> Trained:
        """Members first; then they are put together, and the combiner learns where there is one."""
        path = out.absolute() if out is not None else order.path(self.settings, self._images(order).fingerprint)
        again = self.missing_members(order, out=out)
        members = []
        for part in order.parts:
            trainer = self if part in again else replace(self, force=False)
            members.append(self._load(trainer.train(part), part))
        trained = self.combine(order, members, path)
        self._beginning(order).unlink(missing_ok=True)
        return trained

    def missing_members(self, order: Order, *, out: Path | None = None) -> list[Order]:
        """The members of an ensemble that are still to be trained. By force all are, but for those that were since such
        a training of the ensemble began and was interrupted: the first call for it is its beginning.
        """
        if not self.force:
            return [part for part in order.parts if self.existing(part) is None]
        path = out.absolute() if out is not None else order.path(self.settings, self._images(order).fingerprint)
        beginning = self._beginning(order)
        _discard_outlived(beginning, path)
        if not beginning.exists():
            beginning.parent.mkdir(parents=True, exist_ok=True)
            beginning.touch()
            return list(order.parts)
        began = beginning.stat().st_mtime
        made = [(part, self.existing(part)) for part in order.parts]
        return [part for part, found in made if found is None or found.path.stat().st_mtime < began]

    def _beginning(self, order: Order) -> Path:
        """An empty file as old as the training of an ensemble by force."""
        return self.settings.checkpoints / f"{order.identity(self._images(order).fingerprint)}.again"

    def recalled(self, order: Order, members: list[LoadedModel], path: Path) -> Trained | None:
        """The ensemble at `path`, whose name says all that it is made of, where it has been put together before."""
        record = catalogue.read_record(path) if path.exists() and not self.force else None
        if record is None or record.architecture != order.architecture.canonical:
            return None
        if [member["sha256"] for member in record.members or ()] != [member.sha256 for member in members]:
            return None
        trained = Trained(record, path, fresh=False)
        self.tidy(trained, order)
        self._remember(trained, order)
        return trained

    def combine(self, order: Order, members: list[LoadedModel], path: Path) -> Trained:
        """Make an ensemble of trained members, whatever they were trained with: tune its combiner where it has one,
        and write it to `path`.
        """
        from models.ensembles import assembling, tuning

        def assembled() -> Classifier:
            return assembling.assemble(order.architecture, members, order.entry)

        said = assembling.members_of(members)
        kinds = [member["recipe"] for member in said]
        recipe = dict(kinds[0]) if all(kind == kinds[0] for kind in kinds) and kinds[0] else {"members": kinds}
        names = list(dict.fromkeys(str(member["recipe_name"] or "elsewhere") for member in said))
        normal = assembling.normalisation(order.architecture, members, order.entry)
        keep = partial(self._keep, order, path=path, normal=normal, members=said)
        if not composition.of(order.architecture).learned:
            return keep(assembled(), recipe_name="+".join(names), recipe=recipe)
        examples = self._images(order)
        own = order.tuning()
        plan = order.combiner_plan(examples.fingerprint, [member["sha256"] for member in said])
        checkpoint = self._checkpoint(plan, path)
        with self.watch(f"{order.architecture.canonical}, combiner", own.epochs) as told:
            classifier = tuning.tune(
                plan, assembled, examples, device=self._device(), checkpoint=checkpoint, on_epoch=told
            )
        trained = keep(
            classifier, recipe_name="+".join([*names, own.name]), recipe=recipe | {"combiner": own.to_dict()}
        )
        _discard(checkpoint)
        return trained

    def _load(self, trained: Trained, order: Order) -> LoadedModel:
        from models.weights.files import load_model

        return load_model(trained.path, order.architecture, order.entry)

    def _device(self) -> str:
        from models import devices

        devices.set_threads(self.threads)
        return devices.choose(self.device)

    def _checkpoint_of(self, plan: TrainingPlan) -> Path:
        return self.settings.checkpoints / f"{plan.identity}.pt"

    def _checkpoint(self, plan: TrainingPlan, weights: Path) -> Path:
        """Where the training of these weights goes on. Training by force begins anew, but goes on where such a training
        was interrupted."""
        checkpoint = self._checkpoint_of(plan)
        if self.force:
            _discard_outlived(checkpoint, weights)
        return checkpoint

    def _keep(
        self,
        order: Order,
        classifier: Classifier,
        *,
        path: Path,
        normal: Preprocessing,
        recipe_name: str,
        recipe: dict[str, Any],
        members: list[dict[str, Any]] | None = None,
    ) -> Trained:
        """Measure the clean accuracy, write the weights and note the model in the store."""
        record = keep(
            self.settings,
            order.architecture,
            order.entry,
            classifier,
            path,
            normal,
            device=self._device(),
            data_root=self.data_root,
            dataset_fingerprint=self._images(order).fingerprint,
            origin="trained",
            recipe_name=recipe_name,
            recipe=recipe,
            seed=order.seed,
            members=members,
        )
        return Trained(record, path, fresh=True)


def _discard_outlived(checkpoint: Path, weights: Path) -> None:
    """Remove the checkpoint that weights were made of. A later one is of a training that has begun anew."""
    with contextlib.suppress(OSError):
        if checkpoint.stat().st_mtime <= weights.stat().st_mtime:
            _discard(checkpoint)


def _discard(checkpoint: Path) -> None:
    """Remove a checkpoint, and what processes that were killed have left of it half written."""
    import psutil

    checkpoint.unlink(missing_ok=True)
    for partial_file in checkpoint.parent.glob(f".{checkpoint.name}.*.part"):
        process = partial_file.name.split(".")[-2]
        if process.isdecimal() and (int(process) == os.getpid() or not psutil.pid_exists(int(process))):
            partial_file.unlink(missing_ok=True)


def keep(
    settings: Settings,
    architecture: ArchitectureSpec,
    dataset: Dataset,
    classifier: Classifier,
    path: Path,
    normal: Preprocessing,
    *,
    device: str,
    data_root: Path | None,
    **about: Any,
) -> WeightsRecord:
    """Write a classifier's weights with a record, its clean accuracy on the test split included, and note the model in
    the store. `normal` is what stands before the network; `about` are further fields of the record.
    """
    from explorer.jobs import rows
    from models.training import loop
    from models.weights.files import save_weights
    from store import Store

    store = Store(settings.store)
    store.ensure()
    test = datasets.load(dataset.name, "test", root=data_root)
    record = save_weights(
        path,
        classifier.network,
        catalogue.WeightsRecord(
            architecture=architecture.canonical,
            dataset=dataset.name,
            num_classes=dataset.n_classes,
            in_channels=dataset.image_shape[0],
            mean=normal.mean,
            std=normal.std,
            geometry=dataset.geometry.text if dataset.geometry else None,
            tensors_sha256="",
            clean_accuracy=loop.accuracy(classifier.to(device), test, device=device),
            clean_examples=len(test),
            software_version=rows.software_version(),
            created_at=rows.utc_now(),
            **about,
        ),
    )
    record_model(store, architecture, dataset, classifier, Trained(record, path, fresh=True))
    return record


def record_model(
    store: Store, architecture: ArchitectureSpec, dataset: Dataset, classifier: Classifier, trained: Trained
) -> None:
    """Note a model with weights in the store."""
    from explorer.jobs import rows
    from models import counting
    from store import results

    store.ensure()
    record = trained.record
    counts = counting.of_network(classifier.network, dataset.image_shape)
    results.record_model(
        store,
        rows.architecture_row(architecture),
        rows.model_row(architecture, dataset, record.tensors_sha256, str(trained.path), record, counts),
    )
