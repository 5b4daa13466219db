-- Attacks that look for the closest adversarial example (verdict closest), attacks made of several stages, and how the
-- network was computed. A CHECK cannot be altered, so attacks is made again.

CREATE TABLE attacks_with_closest (
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
    verdict TEXT NOT NULL CHECK (verdict IN ('worst', 'last', 'closest')),
    config JSON NOT NULL,
    recorded_at TIMESTAMP NOT NULL
);
INSERT INTO attacks_with_closest BY NAME FROM attacks;
DROP TABLE attacks;
ALTER TABLE attacks_with_closest RENAME TO attacks;
COMMENT ON TABLE attacks IS 'Full attack configurations: nothing is left to a default.';
COMMENT ON COLUMN attacks.attack_id IS 'Hash of the configuration.';
COMMENT ON COLUMN attacks.name IS 'Name in the registry, such as pgd.';
COMMENT ON COLUMN attacks.norm IS 'Norm that bounds the perturbation: Linf, L2 or L1.';
COMMENT ON COLUMN attacks.eps_text IS 'Perturbation bound as it was written, such as 8/255.';
COMMENT ON COLUMN attacks.eps IS 'Perturbation bound as a number, in the units of the threat space.';
COMMENT ON COLUMN attacks.step_size IS 'Step size in the units of the threat space; empty for attacks that choose their steps themselves.';
COMMENT ON COLUMN attacks.steps IS 'Iterations (or queries) of one run; 0 for a cascade, whose stages have their own.';
COMMENT ON COLUMN attacks.restarts IS 'Number of runs from different starts, for each target where there are some; the strongest counts.';
COMMENT ON COLUMN attacks.random_start IS 'Whether a run starts at a random point of the ball rather than at the clean example.';
COMMENT ON COLUMN attacks.loss IS 'Function the attack ascends, such as ce.';
COMMENT ON COLUMN attacks.seed IS 'Seed of all its randomness.';
COMMENT ON COLUMN attacks.threat_space IS 'Where eps is measured: pixel ([0, 1] images) or normalized-clamped (normalised tensors clamped to [0, 1], as in the public code of arXiv:2007.08428).';
COMMENT ON COLUMN attacks.verdict IS 'Which iterate decides: worst (any that was visited, the start included), last, or closest (the closest adversarial one, if its distance is within eps).';
COMMENT ON COLUMN attacks.config IS 'The whole resolved configuration as JSON, with settings that only this attack has, and the stages of a cascade.';
COMMENT ON COLUMN attacks.recorded_at IS 'When it was first recorded, UTC.';

ALTER TABLE outcomes ADD COLUMN stage TEXT;
COMMENT ON COLUMN outcomes.stage IS 'Attack of a cascade that broke the example, such as square. Empty for other attacks, and for an example that was not broken.';
COMMENT ON COLUMN outcomes.broken_at_step IS 'Step (or query) at which the example was broken: 0 if the start was enough. Empty if it was not, or if it was wrong without attack.';
COMMENT ON COLUMN outcomes.broken_at_restart IS 'Run in which it was broken, from 0: restarts, and of a targeted attack every restart of the first target, then of the next.';
COMMENT ON COLUMN outcomes.distance IS 'Distance of the iterate that decided from the clean example, in the norm and threat space of the attack. Under the verdict closest that of the closest adversarial example: more than eps where the example is robust, empty where none was found.';

ALTER TABLE evaluations ADD COLUMN engine TEXT;
COMMENT ON COLUMN evaluations.engine IS 'How the network was computed in the latest session: precision, and whether folded, channels last or compiled. It finds perturbations only; verdicts are by the network as it was loaded, in float32.';

CREATE TABLE survivals (
    evaluation_id TEXT NOT NULL,
    example INTEGER NOT NULL,
    stages INTEGER NOT NULL,
    forwards BIGINT NOT NULL,
    backwards BIGINT NOT NULL,
    zero_gradient_steps BIGINT NOT NULL,
    margin REAL
);
COMMENT ON TABLE survivals IS 'Examples of an unfinished evaluation by a cascade that have survived its first stages, so that it goes on at the next one. They go when the example has an outcome. Several rows for an example: the most stages count.';
COMMENT ON COLUMN survivals.evaluation_id IS 'The evaluation, see evaluations.';
COMMENT ON COLUMN survivals.example IS 'Index of the example in the split.';
COMMENT ON COLUMN survivals.stages IS 'Number of stages that it has survived.';
COMMENT ON COLUMN survivals.forwards IS 'Forward passes spent on it so far, its clean prediction included.';
COMMENT ON COLUMN survivals.backwards IS 'Backward passes spent on it so far.';
COMMENT ON COLUMN survivals.zero_gradient_steps IS 'Steps so far at which its gradient was zero.';
COMMENT ON COLUMN survivals.margin IS 'Smallest margin that a stage left it with.';
