-- The rank of the true class, for top-5 accuracy. Columns that are added can have no CHECK, and are empty in what was
-- recorded before them.

ALTER TABLE outcomes ADD COLUMN clean_rank INTEGER;
ALTER TABLE outcomes ADD COLUMN rank INTEGER;
COMMENT ON COLUMN outcomes.clean_rank IS 'Place of the label among the classes by falling logit, without attack: 1 if it is predicted; of equal logits the lower class comes first. Empty where logits are not finite and where ranks were not recorded.';
COMMENT ON COLUMN outcomes.rank IS 'Place of the label among the classes by falling logit at the iterate that decided, counted as clean_rank. Equal to clean_rank for an example that is wrong without attack under the verdict worst, which attacks no such example.';

ALTER TABLE evaluations ADD COLUMN n_clean_top5 BIGINT;
ALTER TABLE evaluations ADD COLUMN n_robust_top5 BIGINT;
COMMENT ON COLUMN evaluations.n_clean_top5 IS 'Of those counted, examples without an error whose label is among the five best classes unattacked. Empty while none is counted, and where an outcome has no rank: a re-run fills it.';
COMMENT ON COLUMN evaluations.n_robust_top5 IS 'Of those counted, examples without an error whose label is among the five best classes unattacked and under the attack. Only for attacks with the verdict last and one restart: others stop where the predicted class changes, so that the rank there says nothing about the five best classes. Empty otherwise, while none is counted, and where an outcome has no rank.';
