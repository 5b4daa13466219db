"""One model of a job, loaded and checked, under its attacks."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from explorer.jobs import keeping, rows
from explorer.jobs.recording import Recorder, Tally
from models.architectures import external
from models.architectures import registry as architectures
from models.datasets import registry as datasets
from models.ensembles import composition
from models.errors import DataError, ModelsError, WeightsError
from models.specs import AttackSpec, EvaluationSpec, Preprocessing, Surrogate

if TYPE_CHECKING:
    from explorer.jobs.folder import Job
    from explorer.jobs.request import Request, RequestedModel
    from models.attacks.slots import Outcome, Survival
    from models.evaluation import Evaluator
    from models.kept import Keeper
    from models.weights.files import LoadedModel
    from store.connection import Store
    from store.rows import Counts, OpenedEvaluation

#: Progress is shown at most this often.
SHOW_SECONDS = 0.1

#: Share of examples with a gradient of zero from which a reader is warned.
ZERO_GRADIENTS_TO_WARN = 0.01

#: Passes from which an evaluation is long enough to say before what it will cost.
WORTH_ESTIMATING = 200_000

#: Share of the passes at most that an evaluation is taken to need, when nothing is measured yet: what `auto` goes by.
USUAL_SHARE = 0.25


class Worker(Protocol):
    """What a subject needs of the job it belongs to."""

    job: Job
    request: Request
    store: Store
    evaluation_ids: list[str]
    forwards: int

    def emit(self, kind: str, *, log: bool = True, **data: Any) -> None: ...
    def progress(self, data: dict[str, Any]) -> None: ...
    def must_stop(self) -> bool: ...


class Subject:
    """One model of a job, loaded and checked, under its attacks."""

    def __init__(self, runner: Worker, model: RequestedModel, device: str, device_label: str) -> None:
        from models import counting, estimating
        from models.architectures import factories
        from models.attacks import forwarding
        from models.evaluation import Evaluator
        from models.weights import sources

        request = runner.request
        self.runner = runner
        self.model = model
        self.device_label = device_label
        self.dataset = datasets.find(request.dataset)
        self.examples = datasets.load(request.dataset, request.split, root=request.root)
        self.indices = [int(i) for i in self.examples.subset(request.examples)]
        self.spec = architectures.parse_architecture(model.architecture)
        normal = Preprocessing(model.mean, model.std)
        self.loaded: LoadedModel = sources.load(model.weights, self.spec, self.dataset, preprocessing=normal)
        if model.sha256 is not None and model.sha256 != self.loaded.sha256:
            raise WeightsError(f"{model.weights} has changed since the job was written: ask for it again.")
        self._surrogates: dict[Surrogate, LoadedModel] = {}
        self.code = factories.source_digest(self.spec.name) if external.is_factory(self.spec.name) else None
        self.counts = counting.of_network(self.loaded.classifier.network, self.dataset.image_shape)
        self.evaluator: Evaluator = Evaluator(
            self.loaded.classifier, self.examples, device=device, slots=request.slots, speed=request.speed()
        )
        self.precision = forwarding.precision_for(request.precision, self.evaluator.device)
        self.evaluator.check(self.indices)
        self.evaluator.work_ahead = (
            USUAL_SHARE
            * len(self.indices)
            * sum(sum(estimating.cost(attack, self.examples.n_classes)) for attack in request.attacks)
        )

    def evaluate(self, attack: AttackSpec, number: int) -> None:
        """One evaluation: answered from the store, continued at the missing examples, or begun."""
        from models import checks
        from store import results

        composition.check_threat_space(attack, self.spec, self.loaded.preprocessing)
        runner, evaluator = self.runner, self.evaluator
        spec = self._specification(attack)
        runner.evaluation_ids.append(spec.identity)
        self._prepare(attack)
        opened = self._open(spec)
        tally = Tally(self.indices, results.outcomes(runner.store, opened.evaluation_id))
        runner.emit(
            "evaluation_started",
            evaluation_id=spec.identity,
            number=number,
            architecture=self.model.architecture,
            model_sha256=self.loaded.sha256,
            dataset=self.examples.identifier,
            attack=attack.label,
            eps=attack.eps.text,
            n_requested=len(self.indices),
            **tally.to_dict(),
        )
        if opened.status == "complete":
            self._report(spec.identity, opened.evaluation_id, from_store=True)
            self._tell_what_is_not_kept(opened.evaluation_id)
            return
        recorder = Recorder(runner.store, opened.evaluation_id, lambda message: runner.emit("warning", message=message))
        settled, survivals = self._known_before(attack, opened)
        tally.add(settled)
        recorder.add(settled)
        done = {int(i) for i in opened.done} | {o.example for o in settled}
        missing = [i for i in self.indices if i not in done]
        if opened.engine and (done or survivals):
            evaluator.compute_as(opened.engine)
        self._estimate(attack, missing)
        known = checks.before(evaluator, attack)
        keeper = self._keeper()
        try:
            self._run(spec, missing, survivals, tally, recorder, keeper)
            complete = tally.n_done >= len(self.indices)
            doubts = self._doubts(attack, opened.evaluation_id, recorder) if complete else []
        except BaseException as error:
            # Whatever ended it, what is finished stays.
            recorder.close()
            failed = isinstance(error, ModelsError)
            results.finish_evaluation(
                runner.store,
                opened.evaluation_id,
                status="failed" if failed else "partial",
                warnings=[*evaluator.warnings, *known, *([str(error)] if failed else [])],
                engine=evaluator.how or None,
            )
            self._keep(keeper, opened.evaluation_id, opened.evaluation_id)
            raise
        recorder.close()
        finished = results.finish_evaluation(
            runner.store,
            opened.evaluation_id,
            status="complete" if complete else "partial",
            warnings=[*self._warnings(recorder.counts), *known, *doubts],
            engine=evaluator.how or None,
        )
        if finished.replaced:
            differ = f"{finished.n_changed} of {finished.n_compared} verdicts differ from the earlier result"
            said = f"re-run of {spec.identity}: {differ}"
            runner.emit("warning" if finished.n_changed else "note", message=said)
        elif opened.staging:
            state = f"the re-run of {spec.identity} has {tally.n_done} of {len(self.indices)} examples"
            said = f"{state}; the earlier result stands until it is complete"
            runner.emit("note", message=said)
        kept = self._keep(keeper, opened.evaluation_id, finished.evaluation_id)
        if kept and finished.status == "complete":
            self._tell_what_is_not_kept(finished.evaluation_id)
        # A re-run that is not complete speaks for itself, not for the earlier result.
        self._report(spec.identity, finished.evaluation_id, from_store=False)

    def _run(
        self,
        spec: EvaluationSpec,
        missing: list[int],
        survivals: dict[int, Survival],
        tally: Tally,
        recorder: Recorder,
        keeper: Keeper | None,
    ) -> None:
        """Attack what is missing, storing and showing as it goes."""
        runner, evaluator = self.runner, self.evaluator
        began = time.monotonic()
        first, before = tally.n_done, evaluator.rows_forward
        shown = 0.0
        stream = evaluator.run(
            spec.attack, missing, stop=runner.must_stop, survivals=survivals, survived=recorder.survive
        )
        evaluator.keep = keeper
        try:
            for outcomes in stream:
                tally.add(outcomes)
                recorder.add(outcomes)
                now = time.monotonic()
                runner.forwards += evaluator.rows_forward - before
                before = evaluator.rows_forward
                if now - shown >= SHOW_SECONDS:
                    shown = now
                    rate = (tally.n_done - first) / max(now - began, 1e-9)
                    runner.progress(
                        {
                            "evaluation_id": spec.identity,
                            "n_requested": len(self.indices),
                            **tally.to_dict(),
                            "examples_per_second": rate,
                            "eta_seconds": (len(self.indices) - tally.n_done) / rate if rate else None,
                        }
                    )
        finally:
            # What the checks afterwards break is not of this attack.
            evaluator.keep = None

    def _keeper(self) -> Keeper | None:
        """What collects adversarial examples, where some are to be kept."""
        from models.kept import Keeper

        limit = self.runner.request.save_examples
        return Keeper(self.evaluator, self.indices, limit) if limit else None

    def _keep(self, keeper: Keeper | None, worked_id: str, evaluation_id: str) -> bool:
        """Write what was collected beside the store, together with what an earlier session kept.

        `worked_id` is the identity that the work went under: that of a staging copy, which may have become
        `evaluation_id` since. Returns whether that was possible; else a warning says why not. The outcomes are safe by
        then, whatever happens.
        """
        from models import kept

        if keeper is None:
            return False
        before, goal = (keeping.path_of(self.runner.store.path, i) for i in (worked_id, evaluation_id))
        earlier = None
        try:
            earlier = kept.read(before) if before.exists() else None
        except DataError as error:
            self.runner.emit("warning", message=f"{error} It is replaced.")
        try:
            found = keeper.merged(earlier)
            if len(found):
                kept.write(goal, found)
        except (ModelsError, RuntimeError, MemoryError, OSError) as error:
            reason = str(error).strip().partition("\n")[0]
            self.runner.emit("warning", message=f"the adversarial examples of {evaluation_id} were not kept: {reason}")
            return False
        if before != goal:
            before.unlink(missing_ok=True)
        return True

    def _tell_what_is_not_kept(self, evaluation_id: str) -> None:
        """Say so where adversarial examples are to be kept that were found when none were."""
        limit = self.runner.request.save_examples
        if not limit:
            return
        found = keeping.lacking(self.runner.store, evaluation_id, self.indices, limit)
        if found.n_lacking:
            self.runner.emit("note", message=found.sentence(evaluation_id))

    def _specification(self, attack: AttackSpec) -> EvaluationSpec:
        return self.runner.request.evaluation(
            self.model, attack, self.loaded.sha256, self.code, precision=self.precision
        )

    def _prepare(self, attack: AttackSpec) -> None:
        """Load the model that the attack is crafted on, where that is another."""
        if attack.surrogate is None:
            return
        loaded = self._surrogates.get(attack.surrogate) or self._load_surrogate(attack.surrogate)
        self._surrogates[attack.surrogate] = loaded
        self.evaluator.surrogate = loaded.classifier.to(self.evaluator.device)

    def _load_surrogate(self, surrogate: Surrogate) -> LoadedModel:
        from models.weights import sources

        spec = architectures.parse_architecture(surrogate.architecture)
        normal = Preprocessing(surrogate.mean, surrogate.std)
        loaded = sources.load(surrogate.weights, spec, self.dataset, preprocessing=normal)
        if loaded.sha256 != surrogate.sha256:
            raise WeightsError(f"{surrogate.weights} has changed since the job was written: ask for it again.")
        return loaded

    def _known_before(self, attack: AttackSpec, opened: OpenedEvaluation) -> tuple[list[Outcome], dict[int, Survival]]:
        """What need not be attacked again: examples that an earlier session, or a smaller eps of the same ladder, has
        settled or brought through stages.
        """
        from models.attacks.slots import Outcome, Survival
        from store import results

        store = self.runner.store
        survivals = {i: Survival(**vars(row)) for i, row in results.survivals(store, opened.evaluation_id).items()}
        if attack.name != "sweep" or len(attack.stages) < 2 or self.runner.request.force:
            return [], survivals
        below = replace(attack, eps=attack.stages[-2].eps, stages=attack.stages[:-1])
        identity = self._specification(below).identity
        if results.status_of(store, identity) != "complete":
            return [], survivals
        done = {int(i) for i in opened.done}
        settled = []
        for row in results.outcomes(store, identity).to_pylist():
            if row["example"] in done:
                continue
            if row["robust"]:
                kept = Survival(
                    row["example"],
                    len(below.stages),
                    row["forwards"],
                    row["backwards"],
                    row["zero_gradient_steps"],
                    row["margin"],
                )
                survivals.setdefault(row["example"], kept)
            else:
                settled.append(Outcome(**row))
        return settled, survivals

    def _estimate(self, attack: AttackSpec, missing: list[int]) -> None:
        """Say what the evaluation will cost, where it is long."""
        from models import estimating

        most = sum(estimating.cost(attack, self.examples.n_classes)) * len(missing)
        if not missing or (most < WORTH_ESTIMATING and not self.runner.request.estimate):
            return
        found = estimating.estimate(self.evaluator, attack, missing)
        self.runner.emit("estimate", attack=attack.label, **vars(found))
        self.evaluator.work_ahead = max(self.evaluator.work_ahead, found.forwards_expected + found.backwards_expected)

    def _doubts(self, attack: AttackSpec, evaluation_id: str, recorder: Recorder) -> list[str]:
        """Reasons to doubt a finished cascade: what its stages tell, and three short attacks."""
        from models import checks
        from store import results

        if not attack.stages or attack.name == "sweep":
            return []
        recorder.close()
        stages = results.outcomes(self.runner.store, evaluation_id).column("stage").to_pylist()
        found = checks.after(dict(Counter(stage for stage in stages if stage)), len(self.indices))
        return [*found, *checks.sanity(self.evaluator, attack, self.indices)]

    def _open(self, spec: EvaluationSpec) -> OpenedEvaluation:
        from store import results

        request = self.runner.request
        return results.open_evaluation(
            self.runner.store,
            architecture=rows.architecture_row(self.spec, self.model.family),
            dataset=rows.dataset_row(self.dataset, self.examples),
            model=rows.model_row(
                self.spec, self.dataset, self.loaded.sha256, str(self.loaded.path), self.loaded.record, self.counts
            ),
            attack=rows.attack_row(spec.attack),
            evaluation=rows.evaluation_row(
                spec,
                self.spec.canonical,
                self.examples.identifier,
                self.indices,
                device=self.device_label,
                job=self.runner.job.number,
            ),
            force=request.force,
        )

    def _warnings(self, counts: Counts | None) -> list[str]:
        found = [*self.examples.notes, *self.evaluator.warnings]
        if counts is not None and counts.n_errors:
            found.append(f"{counts.n_errors} examples gave non-finite logits and are in no accuracy")
        if counts is not None and counts.n_zero_gradient > ZERO_GRADIENTS_TO_WARN * counts.n_counted:
            found.append(
                f"{counts.n_zero_gradient} of {counts.n_counted} examples met a gradient of zero, where this attack "
                "stands still: the model may only look robust"
            )
        return found

    def _report(self, evaluation_id: str, stored_id: str, *, from_store: bool) -> None:
        """Say how an evaluation ended; `stored_id` is under which its outcomes are in the store."""
        from store import results

        row = results.evaluation_rows(self.runner.store, [stored_id])[0]
        keys = (
            "status",
            "clean_accuracy",
            "robust_accuracy",
            "robust_accuracy_low",
            "robust_accuracy_high",
            "seconds",
            "warnings",
        )
        self.runner.emit(
            "evaluation_finished",
            evaluation_id=evaluation_id,
            from_store=from_store,
            n_done=row["n_done"],
            n_counted=row["n_examples"],
            n_errors=row["n_errors"],
            **{key: row[key] for key in keys},
        )
