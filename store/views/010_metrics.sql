-- The measures of the study as functions. Percent in, percent out; an unknown argument gives an unknown result.

CREATE OR REPLACE MACRO accuracy(k, n) AS
    CASE WHEN n > 0 THEN 100.0::DOUBLE * k / n END;
COMMENT ON MACRO accuracy IS 'k of n in percent; empty when n is 0.';

CREATE OR REPLACE MACRO hrs(c, p) AS
    CASE WHEN c + p = 0 THEN 0.0::DOUBLE ELSE 2.0::DOUBLE * c * p / (c + p) END;
COMMENT ON MACRO hrs IS 'Harmonic robustness score 2cp / (c + p) of clean accuracy c and robust accuracy p, all in percent (arXiv:2007.08428). The study takes p under PGD.';

CREATE OR REPLACE MACRO pp_hrs(c, p, params, baseline_params) AS
    CASE WHEN params > 0 THEN hrs(c, p) * baseline_params / params END;
COMMENT ON MACRO pp_hrs IS 'Per-parameter HRS: hrs(c, p) times the parameters of the baseline of the line over those of the model (arXiv:2007.08428).';

-- z = 1.959963984540054 is the 97.5 % quantile of the normal distribution. The ends are exact at k = 0 and k = n,
-- where rounding would otherwise leave a speck beyond 0 or 100.
CREATE OR REPLACE MACRO wilson_low(k, n) AS
    CASE
        WHEN k = 0 AND n > 0 THEN 0.0::DOUBLE
        WHEN n > 0 AND k BETWEEN 0 AND n THEN
            100.0::DOUBLE * (
                k::DOUBLE / n + 1.9207294103470627 / n
                - 1.959963984540054 * sqrt((k::DOUBLE / n * (1 - k::DOUBLE / n) + 0.9603647051735313 / n) / n)
            ) / (1 + 3.8414588206941254 / n)
    END;
COMMENT ON MACRO wilson_low IS 'Lower end in percent of the 95 % Wilson interval for k successes of n; empty when n is 0.';

CREATE OR REPLACE MACRO wilson_high(k, n) AS
    CASE
        WHEN k = n AND n > 0 THEN 100.0::DOUBLE
        WHEN n > 0 AND k BETWEEN 0 AND n THEN
            100.0::DOUBLE * (
                k::DOUBLE / n + 1.9207294103470627 / n
                + 1.959963984540054 * sqrt((k::DOUBLE / n * (1 - k::DOUBLE / n) + 0.9603647051735313 / n) / n)
            ) / (1 + 3.8414588206941254 / n)
    END;
COMMENT ON MACRO wilson_high IS 'Upper end in percent of the 95 % Wilson interval for k successes of n; empty when n is 0.';

CREATE OR REPLACE MACRO architecture_key(name) AS
    lower(regexp_replace(name, '[^A-Za-z0-9]', '', 'g'));
COMMENT ON MACRO architecture_key IS 'An architecture name without letter case and punctuation: ResNet-18 and resnet18 are one.';
