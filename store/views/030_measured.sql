-- Every evaluation made here, with what its counts amount to. The counts come from evaluations, never from outcomes, so
-- that the view stays fast with a hundred thousand evaluations.

CREATE OR REPLACE VIEW measured AS
WITH baseline_models AS (
    -- Models here that are the baseline of their line, for the parameter ratio of PP-HRS.
    SELECT
        a.lineage,
        m.trained_on,
        a.options::TEXT AS options,
        min_by(a.architecture_id, m.params) AS architecture_id,
        min(m.params) AS params
    FROM models AS m
    JOIN architectures AS a USING (architecture_id)
    JOIN family_baselines AS f ON f.lineage = a.lineage AND architecture_key(f.architecture) = architecture_key(a.name)
    GROUP BY a.lineage, m.trained_on, a.options::TEXT
),
smallest_baselines AS (
    SELECT lineage, trained_on, min_by(architecture_id, params) AS architecture_id, min(params) AS params
    FROM baseline_models
    GROUP BY lineage, trained_on
),
counted AS (
    SELECT
        *,
        accuracy(n_clean_correct, n_counted - n_errors) AS clean_accuracy,
        accuracy(n_robust, n_counted - n_errors) AS robust_accuracy,
        accuracy(n_clean_top5, n_counted - n_errors) AS clean_top5_accuracy,
        accuracy(n_robust_top5, n_counted - n_errors) AS robust_top5_accuracy
    FROM evaluations
)
SELECT
    e.evaluation_id,
    a.name AS architecture,
    e.architecture_id,
    a.family,
    a.lineage,
    e.model_sha256,
    m.label AS model_label,
    m.train_seed,
    d.name AS dataset,
    e.dataset_id,
    d.split,
    e.n_counted AS n_examples,
    e.n_done,
    e.n_requested,
    k.name AS attack,
    e.attack_id,
    k.norm,
    k.eps_text AS eps,
    k.eps AS eps_value,
    k.steps,
    k.step_size,
    k.restarts,
    k.random_start,
    k.loss,
    k.seed,
    k.threat_space,
    k.verdict,
    split_part(json_extract_string(k.config, '$.surrogate.architecture'), '@', 1) AS crafted_on,
    e.clean_accuracy,
    e.robust_accuracy,
    wilson_low(e.n_robust, e.n_counted - e.n_errors) AS robust_accuracy_low,
    wilson_high(e.n_robust, e.n_counted - e.n_errors) AS robust_accuracy_high,
    e.clean_top5_accuracy,
    e.robust_top5_accuracy,
    hrs(e.clean_accuracy, e.robust_accuracy) AS hrs,
    pp_hrs(e.clean_accuracy, e.robust_accuracy, m.params, coalesce(same.params, smallest.params)) AS pp_hrs,
    coalesce(same.architecture_id, smallest.architecture_id) AS pp_hrs_baseline,
    accuracy(e.n_clean_correct - e.n_robust, e.n_clean_correct) AS attack_success_rate,
    m.params,
    m.macs,
    e.n_clean_correct,
    e.n_robust,
    e.n_errors,
    e.n_borderline,
    e.n_zero_gradient,
    e.forwards,
    e.backwards,
    e.seconds,
    e.status,
    e.warnings,
    len(e.warnings)::INTEGER AS n_warnings,
    e.device,
    e."precision",
    e.engine,
    e.software_version,
    e.torch_version,
    e.engine_revision,
    e.job_id,
    e.started_at,
    e.updated_at,
    e.staging
FROM counted AS e
LEFT JOIN models AS m ON m.model_sha256 = e.model_sha256 AND m.architecture_id = e.architecture_id
LEFT JOIN architectures AS a ON a.architecture_id = e.architecture_id
LEFT JOIN datasets AS d ON d.dataset_id = e.dataset_id
LEFT JOIN attacks AS k ON k.attack_id = e.attack_id
LEFT JOIN baseline_models AS same
    ON same.lineage = a.lineage AND same.trained_on = m.trained_on AND same.options = a.options::TEXT
LEFT JOIN smallest_baselines AS smallest ON smallest.lineage = a.lineage AND smallest.trained_on = m.trained_on;

COMMENT ON VIEW measured IS 'Every evaluation made here with its accuracies and scores in percent, re-runs that are not finished included; tradeoff shows them without those, beside published figures.';
COMMENT ON COLUMN measured.evaluation_id IS 'The evaluation, see evaluations.';
COMMENT ON COLUMN measured.architecture IS 'Name of the architecture.';
COMMENT ON COLUMN measured.architecture_id IS 'The architecture with its options, see architectures.';
COMMENT ON COLUMN measured.family IS 'handcrafted, nas or ensemble.';
COMMENT ON COLUMN measured.lineage IS 'Line of designs, see architectures.';
COMMENT ON COLUMN measured.model_sha256 IS 'The tensors; with architecture_id the model, see models.';
COMMENT ON COLUMN measured.model_label IS 'Short name of the model.';
COMMENT ON COLUMN measured.train_seed IS 'Seed of the training, where known.';
COMMENT ON COLUMN measured.dataset IS 'Name of the dataset.';
COMMENT ON COLUMN measured.dataset_id IS 'The examples, see datasets.';
COMMENT ON COLUMN measured.split IS 'Part of the data.';
COMMENT ON COLUMN measured.n_examples IS 'Examples that the accuracies are over, errors included: all that were asked for, or while some are missing those before the first such one (see evaluations.n_counted).';
COMMENT ON COLUMN measured.n_done IS 'Examples with an outcome so far.';
COMMENT ON COLUMN measured.n_requested IS 'Examples asked for.';
COMMENT ON COLUMN measured.attack IS 'Name of the attack.';
COMMENT ON COLUMN measured.attack_id IS 'The full configuration, see attacks.';
COMMENT ON COLUMN measured.norm IS 'Norm that bounds the perturbation.';
COMMENT ON COLUMN measured.eps IS 'Perturbation bound as written, such as 8/255.';
COMMENT ON COLUMN measured.eps_value IS 'Perturbation bound as a number, in the units of the threat space.';
COMMENT ON COLUMN measured.steps IS 'Iterations of one restart.';
COMMENT ON COLUMN measured.step_size IS 'Step size in the units of the threat space.';
COMMENT ON COLUMN measured.restarts IS 'Number of runs from different starts.';
COMMENT ON COLUMN measured.random_start IS 'Whether a run starts at a random point of the ball.';
COMMENT ON COLUMN measured.loss IS 'Function the attack ascends.';
COMMENT ON COLUMN measured.seed IS 'Seed of the attack.';
COMMENT ON COLUMN measured.threat_space IS 'Where eps is measured: pixel or normalized-clamped (see attacks).';
COMMENT ON COLUMN measured.verdict IS 'Which iterate decides: worst, last or closest (see attacks).';
COMMENT ON COLUMN measured.crafted_on IS 'Architecture of the model that the adversarial examples were made on, where that is another: such a robust accuracy compares with none of an attack on the model itself. Empty otherwise.';
COMMENT ON COLUMN measured.clean_accuracy IS 'Accuracy without attack in percent, over the examples done without an error.';
COMMENT ON COLUMN measured.robust_accuracy IS 'Accuracy under the attack in percent, over the examples done without an error.';
COMMENT ON COLUMN measured.robust_accuracy_low IS 'Lower end of the 95 % Wilson interval of the robust accuracy, in percent: uncertainty from the choice of examples only.';
COMMENT ON COLUMN measured.robust_accuracy_high IS 'Upper end of the 95 % Wilson interval of the robust accuracy, in percent.';
COMMENT ON COLUMN measured.clean_top5_accuracy IS 'Percent of the examples done without an error whose label is among the five best classes without attack; empty where ranks were not recorded.';
COMMENT ON COLUMN measured.robust_top5_accuracy IS 'Percent of the examples done without an error whose label is among the five best classes without and under the attack; only for the verdict last with one restart (see evaluations.n_robust_top5).';
COMMENT ON COLUMN measured.hrs IS 'Harmonic robustness score of clean and robust accuracy under this attack, in percent; the study takes PGD.';
COMMENT ON COLUMN measured.pp_hrs IS 'Per-parameter HRS against pp_hrs_baseline; empty when the line has no baseline with known parameters on the dataset.';
COMMENT ON COLUMN measured.pp_hrs_baseline IS 'Architecture whose parameters pp_hrs compares to: the baseline of the line with the same options if there is such a model, else its smallest.';
COMMENT ON COLUMN measured.attack_success_rate IS 'Percent of the examples correct without attack that the attack breaks.';
COMMENT ON COLUMN measured.params IS 'Number of parameters.';
COMMENT ON COLUMN measured.macs IS 'Multiply-accumulate operations of one prediction, where counted.';
COMMENT ON COLUMN measured.n_clean_correct IS 'Examples without an error that are correct without attack.';
COMMENT ON COLUMN measured.n_robust IS 'Examples without an error that stay correct under the attack.';
COMMENT ON COLUMN measured.n_errors IS 'Examples without a verdict.';
COMMENT ON COLUMN measured.n_borderline IS 'Examples whose adversarial margin is within 1e-4 of zero.';
COMMENT ON COLUMN measured.n_zero_gradient IS 'Examples that met at least one gradient of zero.';
COMMENT ON COLUMN measured.forwards IS 'Forward passes, counted per example.';
COMMENT ON COLUMN measured.backwards IS 'Backward passes, counted per example.';
COMMENT ON COLUMN measured.seconds IS 'Time spent, in seconds, summed over sessions.';
COMMENT ON COLUMN measured.status IS 'running, complete, partial or failed (see evaluations).';
COMMENT ON COLUMN measured.warnings IS 'Reasons to doubt the number, as sentences.';
COMMENT ON COLUMN measured.n_warnings IS 'Number of warnings.';
COMMENT ON COLUMN measured.device IS 'Device it was measured on.';
COMMENT ON COLUMN measured."precision" IS 'Floating-point precision in which perturbations were looked for; verdicts are in float32.';
COMMENT ON COLUMN measured.engine IS 'How the network was computed while perturbations were looked for.';
COMMENT ON COLUMN measured.software_version IS 'Version of nasrob-tui that measured it.';
COMMENT ON COLUMN measured.torch_version IS 'Version of PyTorch that measured it.';
COMMENT ON COLUMN measured.engine_revision IS 'Revision of the rules by which the engine reaches a verdict.';
COMMENT ON COLUMN measured.job_id IS 'Job of the latest session.';
COMMENT ON COLUMN measured.started_at IS 'When it was first started, UTC.';
COMMENT ON COLUMN measured.updated_at IS 'When it last changed, UTC.';
COMMENT ON COLUMN measured.staging IS 'True for a re-run that is not finished yet and will replace the earlier result.';
