-- Models made of models: how members are combined, which they are, and how alike the input gradients of two models are.
-- Columns that are added can have no CHECK, and are empty in what was recorded before them.

ALTER TABLE models ADD COLUMN combine TEXT;
COMMENT ON COLUMN models.combine IS 'How the members of an ensemble are combined: mean-logits, mean-probs, log-mean, majority, learned, features-mean or features-concat. Empty for a single network.';

CREATE TABLE ensemble_members (
    model_sha256 TEXT NOT NULL,
    architecture_id TEXT NOT NULL,
    position INTEGER NOT NULL CHECK (position >= 0),
    member_sha256 TEXT NOT NULL,
    member_architecture_id TEXT NOT NULL,
    PRIMARY KEY (model_sha256, architecture_id, position)
);
COMMENT ON TABLE ensemble_members IS 'The models that ensembles are made of, one row a member. A member need not be among models.';
COMMENT ON COLUMN ensemble_members.model_sha256 IS 'Tensors of the ensemble; with architecture_id the ensemble, see models.';
COMMENT ON COLUMN ensemble_members.architecture_id IS 'Architecture of the ensemble.';
COMMENT ON COLUMN ensemble_members.position IS 'Place of the member in the ensemble, from 0.';
COMMENT ON COLUMN ensemble_members.member_sha256 IS 'Tensors of the member alone; with member_architecture_id the member as a model, see models.';
COMMENT ON COLUMN ensemble_members.member_architecture_id IS 'Architecture of the member.';

CREATE TABLE gradient_cosines (
    dataset_id TEXT NOT NULL,
    example INTEGER NOT NULL CHECK (example >= 0),
    model_sha256_a TEXT NOT NULL,
    architecture_id_a TEXT NOT NULL,
    model_sha256_b TEXT NOT NULL,
    architecture_id_b TEXT NOT NULL,
    cosine REAL CHECK (cosine BETWEEN -1 AND 1)
);
COMMENT ON TABLE gradient_cosines IS 'How alike the input gradients of two models are at one clean image: a sign of how well attacks on one transfer to the other. At most one row for an image and two models; the one that comes first by tensors, then architecture, is a.';
COMMENT ON COLUMN gradient_cosines.dataset_id IS 'The examples, see datasets.';
COMMENT ON COLUMN gradient_cosines.example IS 'Index of the example in the stored order of the dataset, from 0.';
COMMENT ON COLUMN gradient_cosines.model_sha256_a IS 'Tensors of one model; with architecture_id_a the model, see models.';
COMMENT ON COLUMN gradient_cosines.architecture_id_a IS 'Architecture of that model.';
COMMENT ON COLUMN gradient_cosines.model_sha256_b IS 'Tensors of the other model; with architecture_id_b the model, see models.';
COMMENT ON COLUMN gradient_cosines.architecture_id_b IS 'Architecture of the other model.';
COMMENT ON COLUMN gradient_cosines.cosine IS 'Cosine of the angle between the two gradients of the cross-entropy of the true class with respect to the image, -1 to 1. Empty where one of them is zero.';
