-- Robust accuracy against what an attacker spends: steps, and eps.

CREATE OR REPLACE MACRO accuracy_by_step(evaluation) AS TABLE
WITH counted AS (
    SELECT robust, clean_correct, broken_at_step
    FROM outcomes JOIN evaluations USING (evaluation_id)
    WHERE evaluation_id = evaluation AND status = 'complete' AND error IS NULL
),
totals AS (
    SELECT count(*) AS n, count(*) FILTER (clean_correct) AS standing FROM counted
),
broken AS (
    SELECT broken_at_step AS step, count(*) AS n_broken FROM counted WHERE broken_at_step IS NOT NULL GROUP BY ALL
)
SELECT
    step,
    n_broken,
    accuracy(standing - sum(n_broken) OVER (ORDER BY step), n) AS robust_accuracy
FROM broken, totals
ORDER BY step;
COMMENT ON MACRO TABLE accuracy_by_step IS 'Robust accuracy in percent if the attack of a complete evaluation had stopped at each step (query, for Square), in whichever run an example broke: accuracy_by_step(id), only steps at which one broke. Step 0 is the start.';

CREATE OR REPLACE MACRO accuracy_by_distance(evaluation) AS TABLE
WITH counted AS (
    SELECT clean_correct, distance
    FROM outcomes JOIN evaluations USING (evaluation_id) JOIN attacks USING (attack_id)
    WHERE evaluation_id = evaluation AND status = 'complete' AND error IS NULL AND verdict = 'closest'
),
totals AS (
    SELECT count(*) AS n, count(*) FILTER (clean_correct) AS standing FROM counted
),
found AS (
    SELECT distance AS eps, count(*) AS n_broken
    FROM counted
    WHERE clean_correct AND distance IS NOT NULL
    GROUP BY ALL
)
SELECT
    eps,
    accuracy(standing - sum(n_broken) OVER (ORDER BY eps), n) AS robust_accuracy
FROM found, totals
ORDER BY eps;
COMMENT ON MACRO TABLE accuracy_by_distance IS 'Robust accuracy in percent at every eps, from the distances of a complete evaluation by an attack that looks for the closest adversarial example (verdict closest): accuracy_by_distance(id), a row a distance, upward.';

CREATE OR REPLACE MACRO accuracy_by_eps(evaluation) AS TABLE
WITH one AS (
    SELECT e.model_sha256, e.architecture_id, e.dataset_id, e.subset_digest, k.config
    FROM evaluations AS e JOIN attacks AS k USING (attack_id)
    WHERE e.evaluation_id = evaluation
)
SELECT
    e.evaluation_id,
    k.eps_text AS eps,
    k.eps AS eps_value,
    accuracy(e.n_robust, e.n_counted - e.n_errors) AS robust_accuracy,
    wilson_low(e.n_robust, e.n_counted - e.n_errors) AS robust_accuracy_low,
    wilson_high(e.n_robust, e.n_counted - e.n_errors) AS robust_accuracy_high
FROM one
JOIN evaluations AS e
    ON e.model_sha256 = one.model_sha256
    AND e.architecture_id IS NOT DISTINCT FROM one.architecture_id
    AND e.dataset_id = one.dataset_id
    AND e.subset_digest = one.subset_digest
JOIN attacks AS k ON k.attack_id = e.attack_id
WHERE e.status = 'complete'
    AND NOT e.staging
    AND list_bool_and(list_transform(
        ['name', 'norm', 'steps', 'restarts', 'random_start', 'loss', 'seed', 'threat_space', 'verdict', 'settings'],
        lambda key: (k.config->key) IS NOT DISTINCT FROM (one.config->key)
    ))
ORDER BY k.eps;
COMMENT ON MACRO TABLE accuracy_by_eps IS 'Robust accuracy in percent against eps: accuracy_by_eps(id) has a row for every complete evaluation of the same model on the same examples by the same attack, whatever its eps.';

CREATE OR REPLACE MACRO broken_by_stage(evaluation) AS TABLE
WITH planned AS (
    SELECT
        json_extract_string(k.config, '$.stages[*].name') AS names,
        -- The stages of a ladder are one attack, told apart by eps.
        list_transform(
            list_zip(names, json_extract_string(k.config, '$.stages[*].eps')), lambda stage: stage[1] || ' ' || stage[2]
        ) AS rungs
    FROM evaluations AS e JOIN attacks AS k USING (attack_id)
    WHERE e.evaluation_id = evaluation
)
SELECT stage, count(*) AS n_broken, avg(forwards) AS mean_forwards, avg(backwards) AS mean_backwards
FROM outcomes CROSS JOIN planned
WHERE evaluation_id = evaluation AND broken_at_step IS NOT NULL
GROUP BY stage, names, rungs
ORDER BY coalesce(list_position(names, stage), list_position(rungs, stage)) NULLS LAST, n_broken DESC, stage;
COMMENT ON MACRO TABLE broken_by_stage IS 'How many examples each stage of a cascade broke, and the passes that an example of them took on average, in the order of the stages: broken_by_stage(id).';

CREATE OR REPLACE VIEW contradictions AS
WITH pairs AS (
    SELECT
        a.evaluation_id AS evaluation_a,
        b.evaluation_id AS evaluation_b,
        j.name AS attack_a,
        k.name AS attack_b,
        j.eps AS eps_a,
        k.eps AS eps_b,
        j.steps AS steps_a,
        k.steps AS steps_b,
        accuracy(a.n_robust, a.n_counted - a.n_errors) AS robust_a,
        accuracy(b.n_robust, b.n_counted - b.n_errors) AS robust_b,
        j.step_size IS NOT NULL AND k.step_size IS NOT NULL AND j.loss = k.loss AS alike
    FROM evaluations AS a
    JOIN evaluations AS b
        ON b.model_sha256 = a.model_sha256
        AND b.architecture_id IS NOT DISTINCT FROM a.architecture_id
        AND b.dataset_id = a.dataset_id
        AND b.subset_digest = a.subset_digest
        AND b.evaluation_id <> a.evaluation_id
    JOIN attacks AS j ON j.attack_id = a.attack_id
    JOIN attacks AS k ON k.attack_id = b.attack_id
    WHERE a.status = 'complete' AND b.status = 'complete' AND NOT a.staging AND NOT b.staging
        AND j.norm = k.norm AND j.threat_space = k.threat_space AND j.verdict = k.verdict
        AND json_extract(j.config, 'surrogate') IS NULL AND json_extract(k.config, 'surrogate') IS NULL
)
SELECT
    evaluation_a,
    evaluation_b,
    'one step breaks more than many' AS finding,
    robust_a,
    robust_b
FROM pairs
WHERE alike AND eps_a = eps_b AND steps_a = 1 AND steps_b > 1 AND robust_a < robust_b
UNION ALL
SELECT evaluation_a, evaluation_b, 'a larger eps breaks less', robust_a, robust_b
FROM pairs
WHERE attack_a = attack_b AND steps_a = steps_b AND eps_a < eps_b AND robust_a < robust_b
ORDER BY evaluation_a, evaluation_b;
COMMENT ON VIEW contradictions IS 'Pairs of complete evaluations of one model on the same examples that cannot both be right about its robustness (Carlini et al., arXiv:1902.06705): a sign of masked gradients or of too weak an attack.';
COMMENT ON COLUMN contradictions.evaluation_a IS 'The weaker attack.';
COMMENT ON COLUMN contradictions.evaluation_b IS 'The stronger attack, which leaves more examples all the same.';
COMMENT ON COLUMN contradictions.finding IS 'What does not fit: one step breaks more than many, or a larger eps breaks less.';
COMMENT ON COLUMN contradictions.robust_a IS 'Robust accuracy under the weaker attack, in percent.';
COMMENT ON COLUMN contradictions.robust_b IS 'Robust accuracy under the stronger attack, in percent.';
