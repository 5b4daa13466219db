-- The first schema. Percentages are 0 to 100, times are UTC, eps and distances are in the units of the threat space.
-- No foreign keys and no secondary indexes: they would forbid later changes of the tables, and nothing here needs them.

CREATE TABLE schema_migrations (
    name TEXT PRIMARY KEY,
    applied_at TIMESTAMP NOT NULL,
    software_version TEXT NOT NULL,
    sha256 TEXT NOT NULL
);
COMMENT ON TABLE schema_migrations IS 'The schema changes this store has been through, in the order of their names.';
COMMENT ON COLUMN schema_migrations.name IS 'Name of the migration: its file name without .sql.';
COMMENT ON COLUMN schema_migrations.applied_at IS 'When it was applied, UTC.';
COMMENT ON COLUMN schema_migrations.software_version IS 'Version of nasrob-tui that applied it.';
COMMENT ON COLUMN schema_migrations.sha256 IS 'SHA-256 of the text that was applied.';

CREATE TABLE store_properties (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
COMMENT ON TABLE store_properties IS 'What the software notes about the store itself.';
COMMENT ON COLUMN store_properties.name IS 'Name of the property.';
COMMENT ON COLUMN store_properties.value IS 'Its value, as text.';

CREATE TABLE architectures (
    architecture_id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    family TEXT NOT NULL CHECK (family IN ('handcrafted', 'nas', 'ensemble')),
    lineage TEXT NOT NULL,
    options JSON NOT NULL,
    genotype JSON,
    description TEXT NOT NULL,
    source TEXT NOT NULL,
    recorded_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE architectures IS 'Topologies with every option resolved.';
COMMENT ON COLUMN architectures.architecture_id IS 'Canonical text of the architecture with its options, such as darts@init_channels=8,layers=5.';
COMMENT ON COLUMN architectures.name IS 'Name in the registry, such as darts.';
COMMENT ON COLUMN architectures.family IS 'Who designed it: handcrafted, nas (found by search or sampled from a search space) or ensemble.';
COMMENT ON COLUMN architectures.lineage IS 'Line of designs it belongs to, such as resnet or darts; the baseline of PP-HRS is looked up by it.';
COMMENT ON COLUMN architectures.options IS 'Resolved options as a JSON object, such as {"init_channels": 8, "layers": 5}.';
COMMENT ON COLUMN architectures.genotype IS 'Cells as JSON, for architectures made of cells.';
COMMENT ON COLUMN architectures.description IS 'One line for people.';
COMMENT ON COLUMN architectures.source IS 'Publication it comes from.';
COMMENT ON COLUMN architectures.recorded_at IS 'When it was first recorded, UTC.';

CREATE TABLE datasets (
    dataset_id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    split TEXT NOT NULL,
    n_examples BIGINT NOT NULL CHECK (n_examples >= 0),
    n_classes INTEGER NOT NULL CHECK (n_classes >= 1),
    image_shape TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    source TEXT NOT NULL,
    license TEXT NOT NULL,
    recorded_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE datasets IS 'Named, fingerprinted sets of labelled examples in a stored order.';
COMMENT ON COLUMN datasets.dataset_id IS 'Name, split and the beginning of the fingerprint, such as digits/test#a3f1c2d4.';
COMMENT ON COLUMN datasets.name IS 'Name in the registry, such as digits.';
COMMENT ON COLUMN datasets.split IS 'Part of the data: train or test.';
COMMENT ON COLUMN datasets.n_examples IS 'Number of examples in the split.';
COMMENT ON COLUMN datasets.n_classes IS 'Number of classes.';
COMMENT ON COLUMN datasets.image_shape IS 'Channels, height and width of an image, such as 1x8x8.';
COMMENT ON COLUMN datasets.fingerprint IS 'SHA-256 of the images and labels in their stored order.';
COMMENT ON COLUMN datasets.source IS 'Where the data come from.';
COMMENT ON COLUMN datasets.license IS 'Terms the data are under.';
COMMENT ON COLUMN datasets.recorded_at IS 'When it was first recorded, UTC.';

CREATE TABLE models (
    model_sha256 TEXT PRIMARY KEY,
    architecture_id TEXT NOT NULL,
    trained_on TEXT NOT NULL,
    n_classes INTEGER NOT NULL CHECK (n_classes >= 1),
    params BIGINT NOT NULL CHECK (params >= 0),
    macs BIGINT CHECK (macs >= 0),
    origin TEXT NOT NULL,
    weights_path TEXT NOT NULL,
    recipe JSON,
    train_seed BIGINT,
    clean_accuracy_recorded DOUBLE CHECK (clean_accuracy_recorded BETWEEN 0 AND 100),
    label TEXT NOT NULL,
    created_at TIMESTAMP,
    recorded_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE models IS 'Architectures with weights for a dataset.';
COMMENT ON COLUMN models.model_sha256 IS 'SHA-256 of the tensors: the identity of the model, whatever file they are in.';
COMMENT ON COLUMN models.architecture_id IS 'Its architecture, see architectures.';
COMMENT ON COLUMN models.trained_on IS 'Name of the dataset it was trained on.';
COMMENT ON COLUMN models.n_classes IS 'Number of outputs.';
COMMENT ON COLUMN models.params IS 'Number of trained parameters that a prediction uses.';
COMMENT ON COLUMN models.macs IS 'Multiply-accumulate operations of one prediction; empty when not counted.';
COMMENT ON COLUMN models.origin IS 'How it came here: trained, imported or shipped.';
COMMENT ON COLUMN models.weights_path IS 'File the weights were last read from or written to.';
COMMENT ON COLUMN models.recipe IS 'Training recipe as JSON, where known.';
COMMENT ON COLUMN models.train_seed IS 'Seed of the training, where known.';
COMMENT ON COLUMN models.clean_accuracy_recorded IS 'Clean accuracy in percent that came with the weights; a claim, not a measurement of this store.';
COMMENT ON COLUMN models.label IS 'Short name for people.';
COMMENT ON COLUMN models.created_at IS 'When the weights were made, UTC, where known.';
COMMENT ON COLUMN models.recorded_at IS 'When it was first recorded, UTC.';

CREATE TABLE attacks (
    attack_id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    norm TEXT NOT NULL,
    eps_text TEXT NOT NULL,
    eps DOUBLE NOT NULL CHECK (eps >= 0),
    step_size DOUBLE CHECK (step_size >= 0),
    steps INTEGER NOT NULL CHECK (steps >= 0),
    restarts INTEGER NOT NULL CHECK (restarts >= 0),
    random_start BOOLEAN NOT NULL,
    loss TEXT NOT NULL,
    seed BIGINT NOT NULL,
    threat_space TEXT NOT NULL CHECK (threat_space IN ('pixel', 'normalized-clamped')),
    verdict TEXT NOT NULL CHECK (verdict IN ('worst', 'last')),
    config JSON NOT NULL,
    recorded_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE attacks IS 'Full attack configurations: nothing is left to a default.';
COMMENT ON COLUMN attacks.attack_id IS 'Hash of the configuration.';
COMMENT ON COLUMN attacks.name IS 'Name in the registry, such as pgd.';
COMMENT ON COLUMN attacks.norm IS 'Norm that bounds the perturbation, such as Linf.';
COMMENT ON COLUMN attacks.eps_text IS 'Perturbation bound as it was written, such as 8/255.';
COMMENT ON COLUMN attacks.eps IS 'Perturbation bound as a number, in the units of the threat space.';
COMMENT ON COLUMN attacks.step_size IS 'Step size in the units of the threat space; empty for attacks without one.';
COMMENT ON COLUMN attacks.steps IS 'Iterations of one restart.';
COMMENT ON COLUMN attacks.restarts IS 'Number of runs from different starts; the strongest counts.';
COMMENT ON COLUMN attacks.random_start IS 'Whether a run starts at a random point of the ball rather than at the clean example.';
COMMENT ON COLUMN attacks.loss IS 'Function the attack ascends, such as ce.';
COMMENT ON COLUMN attacks.seed IS 'Seed of all its randomness.';
COMMENT ON COLUMN attacks.threat_space IS 'Where eps is measured: pixel ([0, 1] images) or normalized-clamped (normalised tensors clamped to [0, 1], as in the public code of arXiv:2007.08428).';
COMMENT ON COLUMN attacks.verdict IS 'Which iterate decides: worst (any that was visited, the start included) or last.';
COMMENT ON COLUMN attacks.config IS 'The whole resolved configuration as JSON.';
COMMENT ON COLUMN attacks.recorded_at IS 'When it was first recorded, UTC.';

CREATE TABLE subsets (
    subset_digest TEXT PRIMARY KEY,
    examples INTEGER[] NOT NULL
);
COMMENT ON TABLE subsets IS 'Lists of examples that evaluations were asked for, so that every model sees the same ones.';
COMMENT ON COLUMN subsets.subset_digest IS 'Hash of the list.';
COMMENT ON COLUMN subsets.examples IS 'Indices of the examples in the stored order of the dataset, in the order in which they are evaluated.';

CREATE TABLE evaluations (
    evaluation_id TEXT PRIMARY KEY,
    model_sha256 TEXT NOT NULL,
    dataset_id TEXT NOT NULL,
    attack_id TEXT NOT NULL,
    preprocessing JSON NOT NULL,
    n_requested BIGINT NOT NULL CHECK (n_requested >= 0),
    subset_digest TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('running', 'complete', 'partial', 'failed')),
    n_done BIGINT NOT NULL DEFAULT 0 CHECK (n_done BETWEEN 0 AND n_requested),
    n_counted BIGINT NOT NULL DEFAULT 0 CHECK (n_counted BETWEEN 0 AND n_done),
    n_clean_correct BIGINT NOT NULL DEFAULT 0 CHECK (n_clean_correct BETWEEN 0 AND n_counted - n_errors),
    n_robust BIGINT NOT NULL DEFAULT 0 CHECK (n_robust BETWEEN 0 AND n_clean_correct),
    n_errors BIGINT NOT NULL DEFAULT 0 CHECK (n_errors BETWEEN 0 AND n_counted),
    n_borderline BIGINT NOT NULL DEFAULT 0,
    n_zero_gradient BIGINT NOT NULL DEFAULT 0,
    forwards BIGINT NOT NULL DEFAULT 0,
    backwards BIGINT NOT NULL DEFAULT 0,
    seconds DOUBLE NOT NULL DEFAULT 0 CHECK (seconds >= 0),
    warnings TEXT[] NOT NULL,
    device TEXT NOT NULL,
    "precision" TEXT NOT NULL,
    software_version TEXT NOT NULL,
    torch_version TEXT NOT NULL,
    engine_revision INTEGER NOT NULL,
    hostname TEXT,
    job_id TEXT,
    staging BOOLEAN NOT NULL DEFAULT false,
    started_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL,
    finished_at TIMESTAMP
);
COMMENT ON TABLE evaluations IS 'One row a model x dataset x attack measured here, with counts, cost and provenance. The counts always equal the aggregates of outcomes.';
COMMENT ON COLUMN evaluations.evaluation_id IS 'Hash of everything that can change the result; the same request has the same identity.';
COMMENT ON COLUMN evaluations.model_sha256 IS 'The model, see models.';
COMMENT ON COLUMN evaluations.dataset_id IS 'The examples, see datasets.';
COMMENT ON COLUMN evaluations.attack_id IS 'The attack, see attacks.';
COMMENT ON COLUMN evaluations.preprocessing IS 'Mean and standard deviation that the first layer of the model applies, as JSON.';
COMMENT ON COLUMN evaluations.n_requested IS 'Number of examples asked for.';
COMMENT ON COLUMN evaluations.subset_digest IS 'Hash of the indices of the examples asked for.';
COMMENT ON COLUMN evaluations.status IS 'running, complete (every example asked for is done), partial (stopped before the end) or failed. A process that was killed leaves running.';
COMMENT ON COLUMN evaluations.n_done IS 'Examples with an outcome, errors included.';
COMMENT ON COLUMN evaluations.n_counted IS 'Examples that the verdict counts are over: those before the first one that is still missing, in the order of the subset; all of them once the evaluation is complete. Examples that break soon are done first, so the others done so far would make a model look weaker than it is.';
COMMENT ON COLUMN evaluations.n_clean_correct IS 'Of those counted, examples without an error that the model classifies correctly unattacked.';
COMMENT ON COLUMN evaluations.n_robust IS 'Of those counted, examples without an error that stay correctly classified under the attack.';
COMMENT ON COLUMN evaluations.n_errors IS 'Of those counted, examples without a verdict, such as those with non-finite logits; they count in no accuracy.';
COMMENT ON COLUMN evaluations.n_borderline IS 'Of those counted, examples whose adversarial margin is within 1e-4 of zero: other hardware may decide them otherwise.';
COMMENT ON COLUMN evaluations.n_zero_gradient IS 'Of those counted, examples that met at least one gradient of zero, a sign of gradient masking.';
COMMENT ON COLUMN evaluations.forwards IS 'Forward passes, counted per example.';
COMMENT ON COLUMN evaluations.backwards IS 'Backward passes, counted per example.';
COMMENT ON COLUMN evaluations.seconds IS 'Time spent, in seconds, summed over the sessions that worked on it.';
COMMENT ON COLUMN evaluations.warnings IS 'Reasons to doubt the number, as sentences.';
COMMENT ON COLUMN evaluations.device IS 'Device of the latest session, such as cpu or cuda:0 with its name.';
COMMENT ON COLUMN evaluations."precision" IS 'Floating-point precision of the latest session, such as float32.';
COMMENT ON COLUMN evaluations.software_version IS 'Version of nasrob-tui in the latest session.';
COMMENT ON COLUMN evaluations.torch_version IS 'Version of PyTorch in the latest session.';
COMMENT ON COLUMN evaluations.engine_revision IS 'Revision of the rules by which the engine reaches a verdict.';
COMMENT ON COLUMN evaluations.hostname IS 'Machine of the latest session.';
COMMENT ON COLUMN evaluations.job_id IS 'Job of the latest session.';
COMMENT ON COLUMN evaluations.staging IS 'True for a re-run that has not finished yet: it replaces the earlier result when it is complete, and counts nowhere until then.';
COMMENT ON COLUMN evaluations.started_at IS 'When it was first started, UTC.';
COMMENT ON COLUMN evaluations.updated_at IS 'When outcomes or the status last changed, UTC.';
COMMENT ON COLUMN evaluations.finished_at IS 'When the latest session ended in an orderly way, UTC; empty while it runs.';

CREATE TABLE outcomes (
    evaluation_id TEXT NOT NULL,
    example INTEGER NOT NULL CHECK (example >= 0),
    label INTEGER NOT NULL,
    clean_prediction INTEGER,
    adversarial_prediction INTEGER,
    clean_correct BOOLEAN NOT NULL,
    robust BOOLEAN,
    broken_at_step INTEGER CHECK (broken_at_step >= 0),
    broken_at_restart INTEGER CHECK (broken_at_restart >= 0),
    distance DOUBLE,
    clean_margin REAL,
    margin REAL,
    forwards INTEGER NOT NULL CHECK (forwards >= 0),
    backwards INTEGER NOT NULL CHECK (backwards >= 0),
    zero_gradient_steps INTEGER NOT NULL CHECK (zero_gradient_steps >= 0),
    error TEXT,
    CHECK ((robust IS NULL) = (error IS NOT NULL)),
    CHECK (NOT robust OR clean_correct),
    CHECK (broken_at_step IS NULL OR (clean_correct AND NOT robust))
);
COMMENT ON TABLE outcomes IS 'One row an example of an evaluation. At most one row for an evaluation and an example. While an evaluation is not complete, examples that break soon are over-represented: see evaluations.n_counted.';
COMMENT ON COLUMN outcomes.evaluation_id IS 'The evaluation, see evaluations.';
COMMENT ON COLUMN outcomes.example IS 'Index of the example in the stored order of the dataset, from 0.';
COMMENT ON COLUMN outcomes.label IS 'True class.';
COMMENT ON COLUMN outcomes.clean_prediction IS 'Class predicted without attack.';
COMMENT ON COLUMN outcomes.adversarial_prediction IS 'Class predicted at the iterate that decided.';
COMMENT ON COLUMN outcomes.clean_correct IS 'Whether the clean prediction is the label.';
COMMENT ON COLUMN outcomes.robust IS 'Whether the example stays correct under the attack; empty if there was an error. False for one that is wrong without attack.';
COMMENT ON COLUMN outcomes.broken_at_step IS 'Step at which the attack first succeeded, 0 for the start itself; empty when robust or wrong without attack.';
COMMENT ON COLUMN outcomes.broken_at_restart IS 'Restart at which the attack first succeeded, from 0; empty when robust or wrong without attack.';
COMMENT ON COLUMN outcomes.distance IS 'Size of the deciding perturbation in the norm of the attack and the units of the threat space.';
COMMENT ON COLUMN outcomes.clean_margin IS 'Logit of the label minus the largest other logit, without attack.';
COMMENT ON COLUMN outcomes.margin IS 'Logit of the label minus the largest other logit at the iterate that decided.';
COMMENT ON COLUMN outcomes.forwards IS 'Forward passes spent on the example.';
COMMENT ON COLUMN outcomes.backwards IS 'Backward passes spent on the example.';
COMMENT ON COLUMN outcomes.zero_gradient_steps IS 'Steps at which the gradient was zero everywhere.';
COMMENT ON COLUMN outcomes.error IS 'Why there is no verdict, such as non-finite logits; empty otherwise.';

CREATE TABLE publications (
    publication_id TEXT PRIMARY KEY,
    citation TEXT NOT NULL,
    url TEXT,
    threat_space TEXT NOT NULL CHECK (threat_space IN ('pixel', 'normalized-clamped')),
    notes TEXT
);
COMMENT ON TABLE publications IS 'Where published results were printed.';
COMMENT ON COLUMN publications.publication_id IS 'Short name, such as devaguptapu2021.';
COMMENT ON COLUMN publications.citation IS 'How to cite it, with the version whose tables these are.';
COMMENT ON COLUMN publications.url IS 'Where it can be read.';
COMMENT ON COLUMN publications.threat_space IS 'Where its eps is measured: pixel or normalized-clamped (see attacks.threat_space).';
COMMENT ON COLUMN publications.notes IS 'What a reader must know before comparing.';

CREATE TABLE published_results (
    publication_id TEXT NOT NULL,
    table_label TEXT NOT NULL,
    row_number INTEGER NOT NULL,
    dataset TEXT NOT NULL,
    architecture TEXT NOT NULL,
    family TEXT NOT NULL CHECK (family IN ('handcrafted', 'nas', 'ensemble')),
    lineage TEXT NOT NULL,
    params_m DOUBLE CHECK (params_m > 0),
    params_m_std DOUBLE,
    top_k INTEGER NOT NULL CHECK (top_k >= 1),
    attack TEXT NOT NULL,
    norm TEXT NOT NULL,
    eps_text TEXT NOT NULL,
    eps DOUBLE NOT NULL CHECK (eps >= 0),
    steps INTEGER,
    step_size DOUBLE,
    clean_accuracy DOUBLE CHECK (clean_accuracy BETWEEN 0 AND 100),
    clean_std DOUBLE,
    robust_accuracy DOUBLE CHECK (robust_accuracy BETWEEN 0 AND 100),
    robust_std DOUBLE,
    hrs_printed DOUBLE,
    pp_hrs_printed DOUBLE,
    runs INTEGER,
    PRIMARY KEY (publication_id, table_label, row_number, attack, norm, eps_text)
);
COMMENT ON TABLE published_results IS 'Results measured elsewhere, one row a printed robust accuracy.';
COMMENT ON COLUMN published_results.publication_id IS 'Where it was printed, see publications.';
COMMENT ON COLUMN published_results.table_label IS 'Table of the publication, such as Table 2.';
COMMENT ON COLUMN published_results.row_number IS 'Row in that table, from 1.';
COMMENT ON COLUMN published_results.dataset IS 'Name of the dataset.';
COMMENT ON COLUMN published_results.architecture IS 'Name of the architecture as printed.';
COMMENT ON COLUMN published_results.family IS 'handcrafted, nas or ensemble, as the publication groups it.';
COMMENT ON COLUMN published_results.lineage IS 'Line of designs, as in architectures.lineage.';
COMMENT ON COLUMN published_results.params_m IS 'Parameters in millions, where printed.';
COMMENT ON COLUMN published_results.params_m_std IS 'Standard deviation of the parameters over runs, in millions.';
COMMENT ON COLUMN published_results.top_k IS 'A prediction counts as correct if the label is among this many best classes.';
COMMENT ON COLUMN published_results.attack IS 'Name of the attack, as in attacks.name.';
COMMENT ON COLUMN published_results.norm IS 'Norm that bounds the perturbation.';
COMMENT ON COLUMN published_results.eps_text IS 'Perturbation bound as printed, such as 8/255.';
COMMENT ON COLUMN published_results.eps IS 'Perturbation bound as a number, in the units of the threat space.';
COMMENT ON COLUMN published_results.steps IS 'Iterations, where printed.';
COMMENT ON COLUMN published_results.step_size IS 'Step size in the units of the threat space, where printed.';
COMMENT ON COLUMN published_results.clean_accuracy IS 'Clean accuracy in percent.';
COMMENT ON COLUMN published_results.clean_std IS 'Standard deviation of the clean accuracy over runs, in points.';
COMMENT ON COLUMN published_results.robust_accuracy IS 'Accuracy under the attack in percent.';
COMMENT ON COLUMN published_results.robust_std IS 'Standard deviation of the robust accuracy over runs, in points.';
COMMENT ON COLUMN published_results.hrs_printed IS 'HRS as printed: a check of the formula, never a source.';
COMMENT ON COLUMN published_results.pp_hrs_printed IS 'PP-HRS as printed: a check of the formula, never a source.';
COMMENT ON COLUMN published_results.runs IS 'Number of runs the figures are means of, where printed.';

CREATE TABLE family_baselines (
    lineage TEXT PRIMARY KEY,
    architecture TEXT NOT NULL
);
COMMENT ON TABLE family_baselines IS 'The smallest member of each line of designs, to which PP-HRS compares parameters.';
COMMENT ON COLUMN family_baselines.lineage IS 'Line of designs, as in architectures.lineage.';
COMMENT ON COLUMN family_baselines.architecture IS 'Name of its baseline; letter case and punctuation do not count.';
