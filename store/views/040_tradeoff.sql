-- One row a model x dataset x attack. Published rows are marked in `source` and carry their citation.

CREATE OR REPLACE VIEW tradeoff AS
WITH published_baselines AS (
    SELECT r.publication_id, r.dataset, r.lineage, min_by(r.architecture, r.params_m) AS architecture, min(r.params_m) AS params_m
    FROM published_results AS r
    JOIN family_baselines AS f ON f.lineage = r.lineage AND architecture_key(f.architecture) = architecture_key(r.architecture)
    WHERE r.params_m IS NOT NULL
    GROUP BY r.publication_id, r.dataset, r.lineage
)
SELECT
    'measured' AS source,
    evaluation_id AS row_key,
    m.* EXCLUDE (staging),
    1 AS top_k,
    NULL::DOUBLE AS clean_std,
    NULL::DOUBLE AS robust_std,
    NULL::INTEGER AS runs,
    NULL::TEXT AS publication,
    NULL::TEXT AS citation
FROM measured AS m
WHERE NOT m.staging
UNION ALL BY NAME
SELECT
    'published' AS source,
    concat_ws('/', r.publication_id, r.table_label, r.row_number, r.attack, r.norm, r.eps_text) AS row_key,
    r.architecture,
    r.family,
    r.lineage,
    r.dataset,
    r.attack,
    r.norm,
    r.eps_text AS eps,
    r.eps AS eps_value,
    r.steps,
    r.step_size,
    p.threat_space,
    r.top_k,
    r.clean_accuracy,
    r.clean_std,
    r.robust_accuracy,
    r.robust_std,
    hrs(r.clean_accuracy, r.robust_accuracy) AS hrs,
    pp_hrs(r.clean_accuracy, r.robust_accuracy, r.params_m, b.params_m) AS pp_hrs,
    CASE WHEN r.params_m IS NOT NULL THEN b.architecture END AS pp_hrs_baseline,
    accuracy(r.clean_accuracy - r.robust_accuracy, r.clean_accuracy) AS attack_success_rate,
    round(r.params_m * 1e6)::BIGINT AS params,
    'published' AS status,
    0 AS n_warnings,
    r.runs,
    r.publication_id AS publication,
    p.citation
FROM published_results AS r
JOIN publications AS p USING (publication_id)
LEFT JOIN published_baselines AS b
    ON b.publication_id = r.publication_id AND b.dataset = r.dataset AND b.lineage = r.lineage;

COMMENT ON VIEW tradeoff IS 'Clean against robust accuracy, one row a model x dataset x attack: measured here, or published elsewhere (see source). Accuracies and scores in percent. Compare rows of one threat space only.';
COMMENT ON COLUMN tradeoff.source IS 'measured (by this software, every outcome is stored) or published (printed in citation).';
COMMENT ON COLUMN tradeoff.row_key IS 'Identity of the row: the evaluation, or the place in the publication.';
COMMENT ON COLUMN tradeoff.evaluation_id IS 'The evaluation, see evaluations; empty for published rows.';
COMMENT ON COLUMN tradeoff.architecture IS 'Name of the architecture.';
COMMENT ON COLUMN tradeoff.architecture_id IS 'The architecture with its options, see architectures.';
COMMENT ON COLUMN tradeoff.family IS 'handcrafted, nas or ensemble.';
COMMENT ON COLUMN tradeoff.lineage IS 'Line of designs, see architectures.';
COMMENT ON COLUMN tradeoff.model_sha256 IS 'The tensors; with architecture_id the model, see models.';
COMMENT ON COLUMN tradeoff.model_label IS 'Short name of the model.';
COMMENT ON COLUMN tradeoff.train_seed IS 'Seed of the training, where known.';
COMMENT ON COLUMN tradeoff.dataset IS 'Name of the dataset.';
COMMENT ON COLUMN tradeoff.dataset_id IS 'The examples, see datasets.';
COMMENT ON COLUMN tradeoff.split IS 'Part of the data.';
COMMENT ON COLUMN tradeoff.n_examples IS 'Examples that the accuracies are over, errors included: all that were asked for, or while some are missing those before the first such one (see evaluations.n_counted).';
COMMENT ON COLUMN tradeoff.n_done IS 'Examples with an outcome so far.';
COMMENT ON COLUMN tradeoff.n_requested IS 'Examples asked for.';
COMMENT ON COLUMN tradeoff.attack IS 'Name of the attack.';
COMMENT ON COLUMN tradeoff.attack_id IS 'The full configuration, see attacks.';
COMMENT ON COLUMN tradeoff.norm IS 'Norm that bounds the perturbation.';
COMMENT ON COLUMN tradeoff.eps IS 'Perturbation bound as written, such as 8/255.';
COMMENT ON COLUMN tradeoff.eps_value IS 'Perturbation bound as a number, in the units of the threat space.';
COMMENT ON COLUMN tradeoff.steps IS 'Iterations of one restart.';
COMMENT ON COLUMN tradeoff.step_size IS 'Step size in the units of the threat space.';
COMMENT ON COLUMN tradeoff.restarts IS 'Number of runs from different starts.';
COMMENT ON COLUMN tradeoff.random_start IS 'Whether a run starts at a random point of the ball.';
COMMENT ON COLUMN tradeoff.loss IS 'Function the attack ascends.';
COMMENT ON COLUMN tradeoff.seed IS 'Seed of the attack.';
COMMENT ON COLUMN tradeoff.threat_space IS 'Where eps is measured: pixel or normalized-clamped (see attacks).';
COMMENT ON COLUMN tradeoff.verdict IS 'Which iterate decides: worst, last or closest (see attacks).';
COMMENT ON COLUMN tradeoff.crafted_on IS 'Architecture of the model that the adversarial examples were made on, where that is another: such a robust accuracy compares with none of an attack on the model itself. Empty otherwise.';
COMMENT ON COLUMN tradeoff.top_k IS 'A prediction counts as correct if the label is among this many best classes.';
COMMENT ON COLUMN tradeoff.clean_accuracy IS 'Accuracy without attack in percent, over the examples done without an error.';
COMMENT ON COLUMN tradeoff.clean_std IS 'Standard deviation over published runs, in points.';
COMMENT ON COLUMN tradeoff.robust_accuracy IS 'Accuracy under the attack in percent, over the examples done without an error.';
COMMENT ON COLUMN tradeoff.robust_std IS 'Standard deviation over published runs, in points.';
COMMENT ON COLUMN tradeoff.robust_accuracy_low IS 'Lower end of the 95 % Wilson interval of the robust accuracy, in percent: uncertainty from the choice of examples only.';
COMMENT ON COLUMN tradeoff.robust_accuracy_high IS 'Upper end of the 95 % Wilson interval of the robust accuracy, in percent.';
COMMENT ON COLUMN tradeoff.clean_top5_accuracy IS 'Percent of the examples done without an error whose label is among the five best classes without attack; empty where ranks were not recorded; empty for published rows (see top_k).';
COMMENT ON COLUMN tradeoff.robust_top5_accuracy IS 'Percent of the examples done without an error whose label is among the five best classes without and under the attack; only for the verdict last with one restart (see evaluations.n_robust_top5); empty for published rows (see top_k).';
COMMENT ON COLUMN tradeoff.hrs IS 'Harmonic robustness score of clean and robust accuracy under this attack, in percent; the study takes PGD.';
COMMENT ON COLUMN tradeoff.pp_hrs IS 'Per-parameter HRS against pp_hrs_baseline; empty when the line has no baseline with known parameters on the dataset.';
COMMENT ON COLUMN tradeoff.pp_hrs_baseline IS 'Architecture whose parameters pp_hrs compares to: the baseline of the line with the same options if there is such a model, else its smallest.';
COMMENT ON COLUMN tradeoff.attack_success_rate IS 'Percent of the examples correct without attack that the attack breaks.';
COMMENT ON COLUMN tradeoff.params IS 'Number of parameters.';
COMMENT ON COLUMN tradeoff.macs IS 'Multiply-accumulate operations of one prediction, where counted.';
COMMENT ON COLUMN tradeoff.n_clean_correct IS 'Examples without an error that are correct without attack.';
COMMENT ON COLUMN tradeoff.n_robust IS 'Examples without an error that stay correct under the attack.';
COMMENT ON COLUMN tradeoff.n_errors IS 'Examples without a verdict.';
COMMENT ON COLUMN tradeoff.n_borderline IS 'Examples whose adversarial margin is within 1e-4 of zero.';
COMMENT ON COLUMN tradeoff.n_zero_gradient IS 'Examples that met at least one gradient of zero.';
COMMENT ON COLUMN tradeoff.forwards IS 'Forward passes, counted per example.';
COMMENT ON COLUMN tradeoff.backwards IS 'Backward passes, counted per example.';
COMMENT ON COLUMN tradeoff.seconds IS 'Time spent, in seconds, summed over sessions.';
COMMENT ON COLUMN tradeoff.status IS 'running, complete, partial or failed (see evaluations), or published.';
COMMENT ON COLUMN tradeoff.warnings IS 'Reasons to doubt the number, as sentences.';
COMMENT ON COLUMN tradeoff.n_warnings IS 'Number of warnings.';
COMMENT ON COLUMN tradeoff.device IS 'Device it was measured on.';
COMMENT ON COLUMN tradeoff."precision" IS 'Floating-point precision in which perturbations were looked for; verdicts are in float32.';
COMMENT ON COLUMN tradeoff.engine IS 'How the network was computed while perturbations were looked for.';
COMMENT ON COLUMN tradeoff.software_version IS 'Version of nasrob-tui that measured it.';
COMMENT ON COLUMN tradeoff.torch_version IS 'Version of PyTorch that measured it.';
COMMENT ON COLUMN tradeoff.engine_revision IS 'Revision of the rules by which the engine reaches a verdict.';
COMMENT ON COLUMN tradeoff.runs IS 'Number of published runs the figures are means of.';
COMMENT ON COLUMN tradeoff.publication IS 'Where it was printed, see publications; empty for measured rows.';
COMMENT ON COLUMN tradeoff.citation IS 'How to cite it; empty for measured rows.';
COMMENT ON COLUMN tradeoff.job_id IS 'Job of the latest session.';
COMMENT ON COLUMN tradeoff.started_at IS 'When it was first started, UTC.';
COMMENT ON COLUMN tradeoff.updated_at IS 'When it last changed, UTC.';
