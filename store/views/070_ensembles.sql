-- Ensembles against their members: what combining gains, where members agree, what carries over from one to another.
-- A part is the whole or a member. A member is found as a model of its own, by tensors and architecture; its evaluation
-- counts where it is complete, on the same examples and by the same attack.

CREATE OR REPLACE VIEW ensembles AS
SELECT
    m.model_sha256,
    m.architecture_id,
    coalesce(any_value(a.name), split_part(m.architecture_id, '@', 1)) AS architecture,
    any_value(m.label) AS label,
    any_value(m.trained_on) AS trained_on,
    any_value(m.combine) AS combine,
    count(p.position) AS n_members,
    any_value(m.params) AS params,
    any_value(m.macs) AS macs,
    any_value(m.train_seed) AS train_seed
FROM models AS m
LEFT JOIN architectures AS a ON a.architecture_id = m.architecture_id
LEFT JOIN ensemble_members AS p ON p.model_sha256 = m.model_sha256 AND p.architecture_id = m.architecture_id
WHERE m.combine IS NOT NULL
GROUP BY m.model_sha256, m.architecture_id;

COMMENT ON VIEW ensembles IS 'The models that are made of models; ensemble_members says of which.';
COMMENT ON COLUMN ensembles.model_sha256 IS 'The tensors; with architecture_id the model, see models.';
COMMENT ON COLUMN ensembles.architecture_id IS 'The architecture with its options, see architectures.';
COMMENT ON COLUMN ensembles.architecture IS 'Name of the architecture.';
COMMENT ON COLUMN ensembles.label IS 'Short name of the model.';
COMMENT ON COLUMN ensembles.trained_on IS 'Name of the dataset it was trained on.';
COMMENT ON COLUMN ensembles.combine IS 'How its members are combined, see models.';
COMMENT ON COLUMN ensembles.n_members IS 'Number of members.';
COMMENT ON COLUMN ensembles.params IS 'Number of parameters, those of the members included.';
COMMENT ON COLUMN ensembles.macs IS 'Multiply-accumulate operations of one prediction, where counted.';
COMMENT ON COLUMN ensembles.train_seed IS 'Seed of the training, where known.';

-- Several evaluations can fit (another preprocessing or precision, other rules of the engine): the one most like that of
-- the whole.
CREATE OR REPLACE VIEW member_evaluations AS
SELECT
    w.evaluation_id,
    m.position,
    m.member_sha256,
    m.member_architecture_id,
    e.evaluation_id AS member_evaluation_id,
    e.n_counted - e.n_errors AS n_examples,
    e.n_errors,
    e.n_clean_correct,
    e.n_robust
FROM evaluations AS w
JOIN ensemble_members AS m ON m.model_sha256 = w.model_sha256 AND m.architecture_id = w.architecture_id
LEFT JOIN evaluations AS e
    ON e.model_sha256 = m.member_sha256
    AND e.architecture_id = m.member_architecture_id
    AND e.dataset_id = w.dataset_id
    AND e.subset_digest = w.subset_digest
    AND e.attack_id = w.attack_id
    AND e.status = 'complete'
    AND NOT e.staging
QUALIFY row_number() OVER (
    PARTITION BY w.evaluation_id, m.position
    ORDER BY
        e.engine_revision = w.engine_revision DESC,
        e.preprocessing::TEXT = w.preprocessing::TEXT DESC,
        e."precision" = w."precision" DESC,
        e.engine_revision DESC,
        e.updated_at DESC,
        e.evaluation_id
) = 1;

COMMENT ON VIEW member_evaluations IS 'For every evaluation of an ensemble each of its members, with the complete evaluation of that member alone on the same examples by the same attack, where there is one.';
COMMENT ON COLUMN member_evaluations.evaluation_id IS 'The evaluation of the ensemble, complete or not, see evaluations.';
COMMENT ON COLUMN member_evaluations.position IS 'Place of the member in the ensemble, from 0.';
COMMENT ON COLUMN member_evaluations.member_sha256 IS 'Tensors of the member.';
COMMENT ON COLUMN member_evaluations.member_architecture_id IS 'Architecture of the member.';
COMMENT ON COLUMN member_evaluations.member_evaluation_id IS 'The evaluation of the member; empty where there is none.';
COMMENT ON COLUMN member_evaluations.n_examples IS 'Examples of it without an error: those that accuracies are over.';
COMMENT ON COLUMN member_evaluations.n_errors IS 'Examples of it without a verdict.';
COMMENT ON COLUMN member_evaluations.n_clean_correct IS 'Examples that the member classifies correctly unattacked.';
COMMENT ON COLUMN member_evaluations.n_robust IS 'Examples that the member keeps under the attack on it.';

CREATE OR REPLACE VIEW ensemble_results AS
WITH members AS (
    SELECT
        evaluation_id,
        count(*) AS n_members,
        count(member_evaluation_id) AS n_measured,
        max(accuracy(n_robust, n_examples)) AS best,
        avg(accuracy(n_robust, n_examples)) AS mean,
        sum(n_errors) AS n_errors
    FROM member_evaluations
    GROUP BY evaluation_id
),
results AS (
    SELECT
        e.*,
        s.architecture,
        s.label,
        s.combine,
        s.n_members,
        coalesce(m.n_measured, 0) AS n_measured,
        CASE WHEN m.n_measured = m.n_members THEN m.best END AS best,
        CASE WHEN m.n_measured = m.n_members THEN m.mean END AS mean,
        e.n_errors + m.n_errors = 0 AS comparable,
        accuracy(e.n_robust, e.n_counted - e.n_errors) AS whole
    FROM evaluations AS e
    JOIN ensembles AS s ON s.model_sha256 = e.model_sha256 AND s.architecture_id = e.architecture_id
    LEFT JOIN members AS m ON m.evaluation_id = e.evaluation_id
    WHERE e.status = 'complete' AND NOT e.staging
)
SELECT
    r.evaluation_id,
    r.architecture,
    r.architecture_id,
    r.model_sha256,
    r.label,
    r.combine,
    d.name AS dataset,
    r.dataset_id,
    k.name AS attack,
    r.attack_id,
    k.norm,
    k.eps_text AS eps,
    k.eps AS eps_value,
    r.n_counted AS n_examples,
    r.n_errors,
    accuracy(r.n_clean_correct, r.n_counted - r.n_errors) AS clean_accuracy,
    r.whole,
    wilson_low(r.n_robust, r.n_counted - r.n_errors) AS whole_low,
    wilson_high(r.n_robust, r.n_counted - r.n_errors) AS whole_high,
    r.n_members,
    r.n_measured,
    r.best AS best_member,
    r.mean AS mean_member,
    CASE WHEN r.comparable THEN r.whole - r.best END AS gain_over_best,
    CASE WHEN r.comparable THEN r.whole - r.mean END AS gain_over_mean
FROM results AS r
LEFT JOIN datasets AS d ON d.dataset_id = r.dataset_id
LEFT JOIN attacks AS k ON k.attack_id = r.attack_id;

COMMENT ON VIEW ensemble_results IS 'Every complete evaluation of an ensemble beside those of its members on the same examples by the same attack, from counts alone; ensemble_summary compares example by example. Accuracies in percent.';
COMMENT ON COLUMN ensemble_results.evaluation_id IS 'The evaluation of the ensemble, see evaluations.';
COMMENT ON COLUMN ensemble_results.architecture IS 'Name of the architecture.';
COMMENT ON COLUMN ensemble_results.architecture_id IS 'The architecture with its options, see architectures.';
COMMENT ON COLUMN ensemble_results.model_sha256 IS 'The tensors; with architecture_id the model, see models.';
COMMENT ON COLUMN ensemble_results.label IS 'Short name of the model.';
COMMENT ON COLUMN ensemble_results.combine IS 'How its members are combined, see models.';
COMMENT ON COLUMN ensemble_results.dataset IS 'Name of the dataset.';
COMMENT ON COLUMN ensemble_results.dataset_id IS 'The examples, see datasets.';
COMMENT ON COLUMN ensemble_results.attack IS 'Name of the attack.';
COMMENT ON COLUMN ensemble_results.attack_id IS 'The full configuration, see attacks.';
COMMENT ON COLUMN ensemble_results.norm IS 'Norm that bounds the perturbation.';
COMMENT ON COLUMN ensemble_results.eps IS 'Perturbation bound as written, such as 8/255.';
COMMENT ON COLUMN ensemble_results.eps_value IS 'Perturbation bound as a number, in the units of the threat space.';
COMMENT ON COLUMN ensemble_results.n_examples IS 'Number of examples, errors included.';
COMMENT ON COLUMN ensemble_results.n_errors IS 'Examples on which the ensemble has no verdict; they count in no accuracy.';
COMMENT ON COLUMN ensemble_results.clean_accuracy IS 'Accuracy of the ensemble without attack.';
COMMENT ON COLUMN ensemble_results.whole IS 'Robust accuracy of the ensemble.';
COMMENT ON COLUMN ensemble_results.whole_low IS 'Lower end of the 95 % Wilson interval of whole.';
COMMENT ON COLUMN ensemble_results.whole_high IS 'Upper end of the 95 % Wilson interval of whole.';
COMMENT ON COLUMN ensemble_results.n_members IS 'Number of members.';
COMMENT ON COLUMN ensemble_results.n_measured IS 'Members with an evaluation of their own (see member_evaluations).';
COMMENT ON COLUMN ensemble_results.best_member IS 'Highest robust accuracy of a member, each attacked on its own; empty until every member is measured.';
COMMENT ON COLUMN ensemble_results.mean_member IS 'Mean robust accuracy of the members; empty until every member is measured.';
COMMENT ON COLUMN ensemble_results.gain_over_best IS 'whole minus best_member, in points; empty until every member is measured, and where a part has an example without a verdict: ensemble_summary then compares over the others.';
COMMENT ON COLUMN ensemble_results.gain_over_mean IS 'whole minus mean_member, in points; empty where gain_over_best is.';

CREATE OR REPLACE MACRO ensemble_parts(evaluation) AS TABLE
WITH parts AS (
    SELECT
        'whole' AS part,
        NULL::INTEGER AS position,
        e.architecture_id,
        e.model_sha256,
        e.evaluation_id,
        CASE WHEN e.status = 'complete' THEN e.n_counted - e.n_errors END AS n,
        e.n_clean_correct AS c,
        e.n_robust AS r
    FROM evaluations AS e
    JOIN ensembles AS s ON s.model_sha256 = e.model_sha256 AND s.architecture_id = e.architecture_id
    WHERE e.evaluation_id = evaluation
    UNION ALL
    SELECT
        position::TEXT,
        position,
        member_architecture_id,
        member_sha256,
        member_evaluation_id,
        n_examples,
        n_clean_correct,
        n_robust
    FROM member_evaluations
    WHERE evaluation_id = evaluation
)
SELECT
    p.part,
    p.position,
    coalesce(a.name, split_part(p.architecture_id, '@', 1)) AS architecture,
    p.architecture_id,
    p.model_sha256,
    p.evaluation_id,
    accuracy(c, n) AS clean_accuracy,
    accuracy(r, n) AS robust_accuracy,
    wilson_low(r, n) AS low,
    wilson_high(r, n) AS high
FROM parts AS p
LEFT JOIN architectures AS a ON a.architecture_id = p.architecture_id
ORDER BY p.position NULLS FIRST;
COMMENT ON MACRO TABLE ensemble_parts IS 'An ensemble and its members under one attack: ensemble_parts(id) of an evaluation of an ensemble has a row for the whole (part whole) and one for each member (part is its position as text), with its own complete evaluation on the same examples by the same attack, where there is one: clean and robust accuracy in percent over its examples without an error, and the 95 % Wilson interval of the latter (low, high). No figures for a whole that is not complete; no rows for another model.';

CREATE OR REPLACE MACRO ensemble_summary(evaluation) AS TABLE
WITH parts AS (
    SELECT part, position, evaluation_id FROM ensemble_parts(evaluation)
),
scope AS (
    SELECT
        count(p.position) AS members,
        count(p.evaluation_id) FILTER (p.position IS NOT NULL) AS measured,
        count(p.evaluation_id) AS n_parts,
        coalesce(bool_or(e.status = 'complete') FILTER (p.position IS NULL), false) AS complete
    FROM parts AS p LEFT JOIN evaluations AS e ON e.evaluation_id = p.evaluation_id
),
verdicts AS (
    SELECT p.position, o.example, o.robust, o.error
    FROM parts AS p JOIN outcomes AS o ON o.evaluation_id = p.evaluation_id
),
per_example AS (
    SELECT
        example,
        bool_or(robust) FILTER (position IS NULL) AS whole,
        coalesce(bool_or(robust) FILTER (position IS NOT NULL), false) AS any_member
    FROM verdicts
    GROUP BY example
    HAVING count(*) = (SELECT n_parts FROM scope) AND count(error) = 0
),
members AS (
    SELECT
        v.position,
        count(*) FILTER (v.robust) AS n_robust,
        count(*) FILTER (c.whole AND NOT v.robust) AS only_whole,
        count(*) FILTER (v.robust AND NOT c.whole) AS only_member
    FROM verdicts AS v JOIN per_example AS c ON c.example = v.example
    WHERE v.position IS NOT NULL
    GROUP BY v.position
),
best AS (
    SELECT * FROM members ORDER BY n_robust DESC, position LIMIT 1
),
counts AS (
    SELECT
        count(*) AS n,
        count(*) FILTER (whole) AS r_whole,
        count(*) FILTER (any_member) AS r_any,
        (SELECT avg(n_robust) FROM members) AS r_mean
    FROM per_example
),
figures AS (
    SELECT
        members,
        measured,
        complete AND measured = members AND members > 0 AS comparable,
        CASE WHEN complete THEN n END AS n,
        r_whole,
        r_any,
        r_mean,
        best.position AS best_position,
        best.n_robust AS r_best,
        best.only_whole,
        best.only_member
    FROM scope CROSS JOIN counts LEFT JOIN best ON true
    WHERE EXISTS (FROM parts)
)
SELECT
    members AS n_members,
    measured AS n_measured,
    n AS n_examples,
    accuracy(r_whole, n) AS whole,
    CASE WHEN comparable THEN accuracy(r_best, n) END AS best_member,
    CASE WHEN comparable THEN accuracy(r_mean, n) END AS mean_member,
    CASE WHEN comparable THEN accuracy(r_any, n) END AS oracle,
    CASE WHEN comparable AND n > 0 THEN n - r_any END AS lost_by_all,
    CASE WHEN comparable THEN accuracy(r_whole - r_best, n) END AS gain_over_best,
    CASE WHEN comparable THEN accuracy(r_whole - r_mean, n) END AS gain_over_mean,
    CASE WHEN comparable AND n > 0 THEN mcnemar(only_whole, only_member) END AS p_value,
    CASE WHEN comparable THEN best_position END AS best_position
FROM figures;
COMMENT ON MACRO TABLE ensemble_summary IS 'An ensemble against its members: ensemble_summary(id) of an evaluation of an ensemble gives the number of members, how many have an evaluation on the same examples by the same attack, and over the examples that all of these have without an error the robust accuracies in percent of the whole, of the best and of the mean member and of the oracle (examples that at least one member keeps under the attack on itself), the number of examples that every member loses, the gains of the whole in points, the p-value of McNemar''s exact test of the whole against the best member, and which that is. Empty figures while the whole is not complete; those of members also until every one is measured. No row for another model.';

CREATE OR REPLACE MACRO ensemble_agreement(evaluation) AS TABLE
WITH parts AS (
    SELECT position, architecture, evaluation_id FROM ensemble_parts(evaluation) WHERE position IS NOT NULL
),
pairs AS (
    SELECT
        a.position AS member_a,
        b.position AS member_b,
        a.architecture AS architecture_a,
        b.architecture AS architecture_b,
        a.evaluation_id AS evaluation_a,
        b.evaluation_id AS evaluation_b
    FROM parts AS a JOIN parts AS b ON a.position < b.position
),
verdicts AS (
    SELECT p.position, o.example, o.clean_prediction, o.robust
    FROM parts AS p JOIN outcomes AS o ON o.evaluation_id = p.evaluation_id
    WHERE o.error IS NULL
),
counts AS (
    SELECT
        a.position AS member_a,
        b.position AS member_b,
        count(*) AS n,
        count(a.clean_prediction + b.clean_prediction) AS n_predicted,
        count(*) FILTER (a.clean_prediction = b.clean_prediction) AS n_same,
        count(*) FILTER (a.robust AND b.robust) AS n_both,
        count(*) FILTER (a.robust AND NOT b.robust) AS n_only_a,
        count(*) FILTER (b.robust AND NOT a.robust) AS n_only_b,
        count(*) FILTER (NOT a.robust AND NOT b.robust) AS n_neither
    FROM verdicts AS a JOIN verdicts AS b ON b.example = a.example AND a.position < b.position
    GROUP BY a.position, b.position
)
SELECT
    p.member_a,
    p.member_b,
    p.architecture_a,
    p.architecture_b,
    p.evaluation_a,
    p.evaluation_b,
    c.n AS n_examples,
    accuracy(c.n_same, c.n_predicted) AS same_clean_prediction,
    accuracy(c.n_both + c.n_neither, c.n) AS same_verdict,
    c.n_both AS both_robust,
    c.n_only_a AS only_a_robust,
    c.n_only_b AS only_b_robust,
    c.n_neither AS neither_robust
FROM pairs AS p LEFT JOIN counts AS c ON c.member_a = p.member_a AND c.member_b = p.member_b
ORDER BY p.member_a, p.member_b;
COMMENT ON MACRO TABLE ensemble_agreement IS 'How far the members of an ensemble agree, a row a pair of them: ensemble_agreement(id) of an evaluation of an ensemble gives, over the examples that both members have without an error, the percent on which they predict the same class unattacked, the percent on which both are robust or both are not, each under the attack on itself, and the numbers of examples robust in both, in one only and in neither. Empty figures where a member has no evaluation of its own (see member_evaluations).';

CREATE OR REPLACE VIEW transfers AS
WITH crafted AS (
    SELECT
        *,
        json_extract_string(config, '$.surrogate.architecture') AS source_architecture_id,
        json_extract_string(config, '$.surrogate.sha256') AS source_sha256
    FROM attacks
    WHERE json_extract(config, '$.surrogate') IS NOT NULL
)
SELECT
    e.evaluation_id,
    coalesce(s.name, split_part(k.source_architecture_id, '@', 1)) AS source_architecture,
    k.source_architecture_id,
    k.source_sha256,
    coalesce(t.name, split_part(e.architecture_id, '@', 1)) AS target_architecture,
    e.architecture_id AS target_architecture_id,
    e.model_sha256 AS target_sha256,
    d.name AS dataset,
    e.dataset_id,
    e.subset_digest,
    k.name AS attack,
    e.attack_id,
    k.norm,
    k.eps_text AS eps,
    k.eps AS eps_value,
    k.steps,
    k.verdict,
    e.n_counted - e.n_errors AS n_examples,
    accuracy(e.n_robust, e.n_counted - e.n_errors) AS robust_accuracy,
    wilson_low(e.n_robust, e.n_counted - e.n_errors) AS robust_accuracy_low,
    wilson_high(e.n_robust, e.n_counted - e.n_errors) AS robust_accuracy_high,
    accuracy(e.n_clean_correct - e.n_robust, e.n_clean_correct) AS attack_success_rate
FROM crafted AS k
JOIN evaluations AS e ON e.attack_id = k.attack_id
LEFT JOIN architectures AS s ON s.architecture_id = k.source_architecture_id
LEFT JOIN architectures AS t ON t.architecture_id = e.architecture_id
LEFT JOIN datasets AS d ON d.dataset_id = e.dataset_id
WHERE e.status = 'complete'
    AND NOT e.staging
    AND (k.source_sha256 IS DISTINCT FROM e.model_sha256 OR k.source_architecture_id IS DISTINCT FROM e.architecture_id);

COMMENT ON VIEW transfers IS 'Complete evaluations whose adversarial examples were crafted on another model (the source) than the one they were judged on (the target). Accuracies in percent.';
COMMENT ON COLUMN transfers.evaluation_id IS 'The evaluation of the target, see evaluations.';
COMMENT ON COLUMN transfers.source_architecture IS 'Name of the architecture of the source.';
COMMENT ON COLUMN transfers.source_architecture_id IS 'Architecture of the source with its options.';
COMMENT ON COLUMN transfers.source_sha256 IS 'Tensors of the source.';
COMMENT ON COLUMN transfers.target_architecture IS 'Name of the architecture of the target.';
COMMENT ON COLUMN transfers.target_architecture_id IS 'Architecture of the target with its options.';
COMMENT ON COLUMN transfers.target_sha256 IS 'Tensors of the target.';
COMMENT ON COLUMN transfers.dataset IS 'Name of the dataset.';
COMMENT ON COLUMN transfers.dataset_id IS 'The examples, see datasets.';
COMMENT ON COLUMN transfers.subset_digest IS 'Which of them, see subsets.';
COMMENT ON COLUMN transfers.attack IS 'Name of the attack.';
COMMENT ON COLUMN transfers.attack_id IS 'The full configuration, see attacks.';
COMMENT ON COLUMN transfers.norm IS 'Norm that bounds the perturbation.';
COMMENT ON COLUMN transfers.eps IS 'Perturbation bound as written, such as 8/255.';
COMMENT ON COLUMN transfers.eps_value IS 'Perturbation bound as a number, in the units of the threat space.';
COMMENT ON COLUMN transfers.steps IS 'Iterations of one restart.';
COMMENT ON COLUMN transfers.verdict IS 'Which iterate the target judges: last where the attacker sees nothing of it, worst where every one is tried.';
COMMENT ON COLUMN transfers.n_examples IS 'Examples without an error: those that the accuracies are over.';
COMMENT ON COLUMN transfers.robust_accuracy IS 'Accuracy of the target on what was crafted on the source.';
COMMENT ON COLUMN transfers.robust_accuracy_low IS 'Lower end of the 95 % Wilson interval of the robust accuracy.';
COMMENT ON COLUMN transfers.robust_accuracy_high IS 'Upper end of the 95 % Wilson interval of the robust accuracy.';
COMMENT ON COLUMN transfers.attack_success_rate IS 'Percent of the examples that the target classifies correctly unattacked which the attack breaks.';

CREATE OR REPLACE MACRO transfer_matrix(evaluation) AS TABLE
WITH asked AS (
    SELECT e.dataset_id, e.subset_digest, e."precision", k.*, json_extract(k.config, '$.surrogate') IS NULL AS white_box
    FROM evaluations AS e JOIN attacks AS k ON k.attack_id = e.attack_id
    WHERE e.evaluation_id = evaluation
),
parts AS (
    SELECT part, position, architecture, architecture_id, model_sha256, evaluation_id, robust_accuracy
    FROM ensemble_parts(evaluation)
),
cells AS (
    SELECT
        s.part AS source,
        t.part AS target,
        s.position AS source_position,
        t.position AS target_position,
        s.architecture AS source_architecture,
        t.architecture AS target_architecture,
        s.model_sha256 = t.model_sha256 AND s.architecture_id = t.architecture_id AS same,
        s.model_sha256 AS source_sha256,
        s.architecture_id AS source_architecture_id,
        t.model_sha256 AS target_sha256,
        t.architecture_id AS target_architecture_id,
        t.evaluation_id AS own_evaluation,
        t.robust_accuracy AS own_accuracy
    FROM parts AS s CROSS JOIN parts AS t
),
-- The attack of the whole but for its source, and for which iterate is judged.
crafted AS (
    SELECT x.*, k.verdict = 'last' AS judged_last, e."precision" = asked."precision" AS alike, e.updated_at
    FROM asked
    JOIN attacks AS k
        ON k.name = asked.name
        AND k.norm = asked.norm
        AND k.eps = asked.eps
        AND k.step_size IS NOT DISTINCT FROM asked.step_size
        AND k.steps = asked.steps
        AND k.restarts = asked.restarts
        AND k.random_start = asked.random_start
        AND k.loss = asked.loss
        AND k.seed = asked.seed
        AND k.threat_space = asked.threat_space
        AND json_extract(k.config, '$.settings') IS NOT DISTINCT FROM json_extract(asked.config, '$.settings')
    JOIN transfers AS x
        ON x.attack_id = k.attack_id
        AND x.dataset_id = asked.dataset_id
        AND x.subset_digest = asked.subset_digest
    JOIN evaluations AS e ON e.evaluation_id = x.evaluation_id
),
found AS (
    SELECT c.source, c.target, x.evaluation_id, x.robust_accuracy, x.attack_success_rate
    FROM cells AS c
    JOIN crafted AS x
        ON x.source_sha256 = c.source_sha256
        AND x.source_architecture_id = c.source_architecture_id
        AND x.target_sha256 = c.target_sha256
        AND x.target_architecture_id = c.target_architecture_id
    QUALIFY row_number() OVER (
        PARTITION BY c.source, c.target ORDER BY x.judged_last DESC, x.alike DESC, x.updated_at DESC, x.evaluation_id
    ) = 1
)
SELECT
    c.source,
    c.target,
    c.source_architecture,
    c.target_architecture,
    CASE WHEN c.same AND white_box THEN c.own_accuracy ELSE f.robust_accuracy END AS robust_accuracy,
    CASE
        WHEN c.same AND white_box AND e.status = 'complete' THEN accuracy(e.n_clean_correct - e.n_robust, e.n_clean_correct)
        ELSE f.attack_success_rate
    END AS attack_success_rate,
    CASE WHEN c.same AND white_box THEN c.own_evaluation ELSE f.evaluation_id END AS evaluation_id
FROM cells AS c
CROSS JOIN asked
LEFT JOIN evaluations AS e ON e.evaluation_id = c.own_evaluation
LEFT JOIN found AS f ON f.source = c.source AND f.target = c.target
ORDER BY c.source_position NULLS FIRST, c.target_position NULLS FIRST;
COMMENT ON MACRO TABLE transfer_matrix IS 'What attacks on one part of an ensemble do to another: transfer_matrix(id) of an evaluation of an ensemble has a row for every source and target among the whole and its members (named as in ensemble_parts), with the robust accuracy of the target in percent, the percent of its correctly classified examples that break, and the evaluation. Where source and target are one it is the attack on itself; elsewhere the same attack crafted on the source, on the same examples, whichever iterate it is judged at. Empty where not measured.';

CREATE OR REPLACE MACRO member_cosines(evaluation) AS TABLE
WITH parts AS (
    SELECT position, architecture, {'sha256': model_sha256, 'architecture': architecture_id} AS model
    FROM ensemble_parts(evaluation)
    WHERE position IS NOT NULL
),
asked AS (
    SELECT e.dataset_id, unnest(s.examples) AS example
    FROM evaluations AS e JOIN subsets AS s ON s.subset_digest = e.subset_digest
    WHERE e.evaluation_id = evaluation
),
pairs AS (
    SELECT
        a.position AS member_a,
        b.position AS member_b,
        a.architecture AS architecture_a,
        b.architecture AS architecture_b,
        -- In the order in which gradient_cosines keeps them.
        least(a.model, b.model) AS first,
        greatest(a.model, b.model) AS second
    FROM parts AS a JOIN parts AS b ON a.position < b.position
),
cosines AS (
    SELECT
        {'sha256': g.model_sha256_a, 'architecture': g.architecture_id_a} AS first,
        {'sha256': g.model_sha256_b, 'architecture': g.architecture_id_b} AS second,
        g.example,
        g.cosine
    FROM gradient_cosines AS g SEMI JOIN asked ON asked.dataset_id = g.dataset_id AND asked.example = g.example
)
SELECT
    p.member_a,
    p.member_b,
    any_value(p.architecture_a) AS architecture_a,
    any_value(p.architecture_b) AS architecture_b,
    count(g.cosine) AS n,
    count(g.example) - count(g.cosine) AS n_zero,
    avg(g.cosine) AS mean,
    stddev_samp(g.cosine) AS std,
    accuracy(count(*) FILTER (g.cosine > 0.5), count(g.cosine)) AS above_half,
    accuracy(count(*) FILTER (g.cosine < 0), count(g.cosine)) AS below_zero
FROM pairs AS p LEFT JOIN cosines AS g ON g.first = p.first AND g.second = p.second
GROUP BY p.member_a, p.member_b
ORDER BY p.member_a, p.member_b;
COMMENT ON MACRO TABLE member_cosines IS 'How alike the input gradients of the members of an ensemble are, a row a pair of them: member_cosines(id) gives, over the examples of that evaluation, the number n with a cosine, the number n_zero where a gradient is zero, mean and sample standard deviation of the cosines, and the percent of the n that are above 0.5 and below 0. n is 0 and the rest empty where none were computed.';

CREATE OR REPLACE MACRO lost_by_all(evaluation) AS TABLE
WITH parts AS (
    SELECT p.position, p.evaluation_id, p.evaluation_id IS NOT NULL AND e.status = 'complete' AS measured
    FROM ensemble_parts(evaluation) AS p LEFT JOIN evaluations AS e ON e.evaluation_id = p.evaluation_id
),
scope AS (
    SELECT count(*) AS n_parts, coalesce(bool_and(measured), false) AND count(position) > 0 AS comparable FROM parts
),
verdicts AS (
    SELECT p.position, o.*
    FROM parts AS p JOIN outcomes AS o ON o.evaluation_id = p.evaluation_id
    WHERE (SELECT comparable FROM scope)
)
SELECT
    example,
    any_value(label) AS label,
    bool_or(robust) FILTER (position IS NULL) AS whole_robust,
    any_value(adversarial_prediction) FILTER (position IS NULL) AS whole_prediction,
    count(*) FILTER (position IS NOT NULL AND clean_correct) AS n_clean_correct,
    list(adversarial_prediction ORDER BY position) FILTER (position IS NOT NULL) AS member_predictions
FROM verdicts
GROUP BY example
HAVING count(*) = (SELECT n_parts FROM scope)
    AND count(error) = 0
    AND NOT bool_or(robust) FILTER (position IS NOT NULL)
ORDER BY example;
COMMENT ON MACRO TABLE lost_by_all IS 'The examples that every member of an ensemble loses, each under the attack on itself: lost_by_all(id) of an evaluation of an ensemble gives the example, its label, whether the whole keeps it and what the whole predicts under attack, how many members are right unattacked, and the list of what the members predict under attack, in their order. Over the examples that all have without an error; no rows until the whole is complete and every member is measured.';
