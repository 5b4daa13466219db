-- Questions across evaluations, answered from the outcomes of the same examples.

CREATE OR REPLACE MACRO worst_case(evaluation_ids) AS TABLE
WITH asked AS (
    SELECT evaluation_id, (model_sha256, architecture_id) AS model, dataset_id, status
    FROM evaluations
    WHERE evaluation_id IN (SELECT unnest(evaluation_ids))
),
scope AS (
    SELECT
        count(*) AS n_evaluations,
        count(*) = len(list_distinct(evaluation_ids))
            AND count(DISTINCT model) = 1
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

-- The binomial sum is taken in logarithms; the smaller of the two counts is the tail. Rounding can carry it a speck past 1.
CREATE OR REPLACE MACRO mcnemar(only_a, only_b) AS
    CASE
        WHEN only_a IS NULL OR only_b IS NULL THEN NULL
        WHEN only_a + only_b = 0 THEN 1.0::DOUBLE
        ELSE least(1.0::DOUBLE, 2 * list_sum(list_transform(
            range(0, least(only_a, only_b) + 1),
            lambda i: exp(
                lgamma(only_a + only_b + 1) - lgamma(i + 1) - lgamma(only_a + only_b - i + 1)
                - (only_a + only_b) * ln(2)
            )
        )))
    END;
COMMENT ON MACRO mcnemar IS 'Two-sided p-value of McNemar''s exact test, from the numbers of examples that are robust in one evaluation only: how often chance alone would divide them at least as unevenly, were both equally robust.';

CREATE OR REPLACE MACRO paired_examples(evaluation_a, evaluation_b) AS TABLE
SELECT
    a.example,
    a.label,
    a.robust AS robust_a,
    b.robust AS robust_b,
    a.robust::INTEGER - b.robust::INTEGER AS difference
FROM outcomes AS a
JOIN outcomes AS b ON a.example = b.example
WHERE a.evaluation_id = evaluation_a AND b.evaluation_id = evaluation_b AND a.error IS NULL AND b.error IS NULL
ORDER BY a.example;
COMMENT ON MACRO TABLE paired_examples IS 'The examples that two evaluations have in common without an error: paired_examples(id_a, id_b) says in which each is robust, and the difference (1 only in the first, -1 only in the second).';

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
        count(*) FILTER (robust_a AND robust_b) AS n_both,
        count(*) FILTER (difference = 1) AS n_only_a,
        count(*) FILTER (difference = -1) AS n_only_b,
        count(*) FILTER (NOT robust_a AND NOT robust_b) AS n_neither
    FROM paired_examples(evaluation_a, evaluation_b)
)
SELECT
    CASE WHEN comparable THEN n END AS n_examples,
    CASE WHEN comparable THEN n_both END AS both_robust,
    CASE WHEN comparable THEN n_only_a END AS only_a_robust,
    CASE WHEN comparable THEN n_only_b END AS only_b_robust,
    CASE WHEN comparable THEN n_neither END AS neither_robust,
    CASE WHEN comparable THEN accuracy(n_both + n_neither, n) END AS agreement,
    CASE WHEN comparable THEN accuracy(n_only_a - n_only_b, n) END AS difference,
    CASE WHEN comparable AND n > 0 THEN mcnemar(n_only_a, n_only_b) END AS p_value
FROM scope, counts;
COMMENT ON MACRO TABLE paired IS 'Two evaluations on the same examples: paired(id_a, id_b) counts those robust in both, in one only and in neither, the agreement in percent, the difference of the robust accuracies in points (first minus second), and the p-value of McNemar''s exact test. Over the examples that both have without an error. Empty figures when an identity is unknown, the datasets differ, or one of the two is not complete (what is done first is what breaks first).';

-- A resample takes n of the n differences with replacement; which ones is a hash of its number and the place, so that
-- the same question has the same answer.
CREATE OR REPLACE MACRO paired_bootstrap(evaluation_a, evaluation_b, resamples := 2000) AS TABLE
WITH scope AS (
    SELECT difference AS observed, n_examples AS n FROM paired(evaluation_a, evaluation_b)
),
drawn AS (
    SELECT list(difference ORDER BY example) AS differences FROM paired_examples(evaluation_a, evaluation_b)
),
resampled AS (
    SELECT 100.0::DOUBLE * sum(differences[1 + (hash(r.i, e.i) % n::UBIGINT)::BIGINT]) / n AS difference
    FROM scope, drawn, range(resamples) AS r(i), range(n) AS e(i)
    WHERE n > 0
    GROUP BY r.i, n
)
SELECT
    any_value(n) AS n_examples,
    any_value(observed) AS difference,
    quantile_cont(difference, 0.025) AS difference_low,
    quantile_cont(difference, 0.975) AS difference_high
FROM scope LEFT JOIN resampled ON true;
COMMENT ON MACRO TABLE paired_bootstrap IS 'Difference of the robust accuracies of two evaluations in points, first minus second, with the 95 % interval of a paired bootstrap: paired_bootstrap(id_a, id_b) draws the common examples anew 2000 times (resamples := ... for another number). Empty figures where paired has none.';
