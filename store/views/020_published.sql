-- The study's printed tables in their printed form, one row a printed row.

CREATE OR REPLACE VIEW published AS
SELECT
    p.publication_id AS publication,
    r.table_label,
    r.row_number,
    r.dataset,
    r.architecture,
    any_value(r.family) AS family,
    any_value(r.params_m) AS params_m,
    any_value(r.params_m_std) AS params_m_std,
    any_value(r.top_k) AS top_k,
    any_value(r.clean_accuracy) AS clean,
    any_value(r.clean_std) AS clean_std,
    any_value(r.robust_accuracy) FILTER (r.attack = 'fgsm') AS fgsm,
    any_value(r.robust_accuracy) FILTER (r.attack = 'f-fgsm') AS f_fgsm,
    any_value(r.robust_accuracy) FILTER (r.attack = 'pgd') AS pgd,
    any_value(r.robust_std) FILTER (r.attack = 'pgd') AS pgd_std,
    any_value(r.hrs_printed) AS hrs,
    any_value(r.pp_hrs_printed) AS pp_hrs,
    any_value(r.runs) AS runs,
    any_value(p.threat_space) AS threat_space,
    any_value(p.citation) AS citation
FROM published_results AS r
JOIN publications AS p USING (publication_id)
WHERE p.publication_id = 'devaguptapu2021'
GROUP BY p.publication_id, r.table_label, r.row_number, r.dataset, r.architecture
ORDER BY r.table_label, r.row_number;

COMMENT ON VIEW published IS 'The 63 rows of Tables 1 to 6 of arXiv:2007.08428 as printed in its ICLR 2021 S2D-OLAD workshop version; accuracies in percent.';
COMMENT ON COLUMN published.publication IS 'Where it was printed, see publications.';
COMMENT ON COLUMN published.table_label IS 'Table of the publication.';
COMMENT ON COLUMN published.row_number IS 'Row in that table, from 1.';
COMMENT ON COLUMN published.dataset IS 'Name of the dataset.';
COMMENT ON COLUMN published.architecture IS 'Name of the architecture as printed.';
COMMENT ON COLUMN published.family IS 'handcrafted or nas, as the publication groups it (EfficientNet, which it calls a mix, under nas).';
COMMENT ON COLUMN published.params_m IS 'Parameters in millions, where printed.';
COMMENT ON COLUMN published.params_m_std IS 'Standard deviation of the parameters over runs, in millions.';
COMMENT ON COLUMN published.top_k IS 'A prediction counts as correct if the label is among this many best classes.';
COMMENT ON COLUMN published.clean IS 'Clean accuracy in percent.';
COMMENT ON COLUMN published.clean_std IS 'Standard deviation of the clean accuracy over runs, in points.';
COMMENT ON COLUMN published.fgsm IS 'Accuracy under FGSM in percent, where printed.';
COMMENT ON COLUMN published.f_fgsm IS 'Accuracy under F-FGSM in percent, where printed.';
COMMENT ON COLUMN published.pgd IS 'Accuracy under PGD in percent.';
COMMENT ON COLUMN published.pgd_std IS 'Standard deviation of the accuracy under PGD over runs, in points.';
COMMENT ON COLUMN published.hrs IS 'HRS as printed; tradeoff.hrs is computed from the accuracies instead.';
COMMENT ON COLUMN published.pp_hrs IS 'PP-HRS as printed; tradeoff.pp_hrs is computed from the accuracies instead.';
COMMENT ON COLUMN published.runs IS 'Number of runs the figures are means of, where printed.';
COMMENT ON COLUMN published.threat_space IS 'Where eps is measured: pixel or normalized-clamped (see attacks.threat_space).';
COMMENT ON COLUMN published.citation IS 'How to cite it.';
