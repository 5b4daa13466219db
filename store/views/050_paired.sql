-- Questions across evaluations, answered from the outcomes of the same examples.

CREATE OR REPLACE MACRO worst_case(evaluation_ids) AS TABLE
WITH asked AS (
    SELECT evaluation_id, model_sha256, dataset_id, status
    FROM evaluations
    WHERE evaluation_id IN (SELECT unnest(evaluation_ids))
),
scope AS (
    SELECT
        count(*) AS n_evaluations,
        count(*) = len(list_distinct(evaluation_ids))
            AND count(DISTINCT model_sha256) = 1
            AND count(DISTINCT dataset_id) = 1
            AND bool_and(status = 'complete') AS comparable
    FROM asked
),
per_example AS (
    SELECT example, bool_and(clean_correct) AS clean_correct, bool_and(robust) AS robust
    FROM outcomes
    WHERE evaluation_id IN (SELECT evaluation_id FROM asked)
    GROUP BY example
    HAVING count(*) = (SELECT n_evaluations FROM scope) AND count(error) = 0
),
counts AS (
    SELECT count(*) AS n, count(*) FILTER (clean_correct) AS c, count(*) FILTER (robust) AS r FROM per_example
)
SELECT
    n_evaluations,
    CASE WHEN comparable THEN n END AS n_examples,
    CASE WHEN comparable THEN c END AS n_clean_correct,
    CASE WHEN comparable THEN r END AS n_robust,
    CASE WHEN comparable THEN accuracy(c, n) END AS clean_accuracy,
    CASE WHEN comparable THEN accuracy(r, n) END AS robust_accuracy,
    CASE WHEN comparable THEN wilson_low(r, n) END AS robust_accuracy_low,
    CASE WHEN comparable THEN wilson_high(r, n) END AS robust_accuracy_high
FROM scope, counts;
COMMENT ON MACRO TABLE worst_case IS 'Accuracy under the worst of several attacks on one model: worst_case([id, id, ...]) counts an example as robust only if it is so in every evaluation. Over the examples that all of them have without an error. Empty figures when an identity is unknown, the evaluations are not of one model and one dataset, or one of them is not complete (what is done first is what breaks first).';

CREATE OR REPLACE MACRO paired(evaluation_a, evaluation_b) AS TABLE
WITH scope AS (
    SELECT
        count(DISTINCT dataset_id) = 1
        AND count(*) = len(list_distinct([evaluation_a, evaluation_b]))
        AND bool_and(status = 'complete') AS comparable
    FROM evaluations
    WHERE evaluation_id IN (evaluation_a, evaluation_b)
),
counts AS (
    SELECT
        count(*) AS n,
        count(*) FILTER (a.robust AND b.robust) AS n_both,
        count(*) FILTER (a.robust AND NOT b.robust) AS n_only_a,
        count(*) FILTER (b.robust AND NOT a.robust) AS n_only_b,
        count(*) FILTER (NOT a.robust AND NOT b.robust) AS n_neither
    FROM outcomes AS a
    JOIN outcomes AS b ON a.example = b.example
    WHERE a.evaluation_id = evaluation_a AND b.evaluation_id = evaluation_b AND a.error IS NULL AND b.error IS NULL
)
SELECT
    CASE WHEN comparable THEN n END AS n_examples,
    CASE WHEN comparable THEN n_both END AS both_robust,
    CASE WHEN comparable THEN n_only_a END AS only_a_robust,
    CASE WHEN comparable THEN n_only_b END AS only_b_robust,
    CASE WHEN comparable THEN n_neither END AS neither_robust,
    CASE WHEN comparable THEN accuracy(n_both + n_neither, n) END AS agreement
FROM scope, counts;
COMMENT ON MACRO TABLE paired IS 'Two evaluations on the same examples: paired(id_a, id_b) counts those robust in both, in one only and in neither (the table of McNemar''s test), and the agreement in percent. Over the examples that both have without an error. Empty figures when an identity is unknown, the datasets differ, or one of the two is not complete (what is done first is what breaks first).';
