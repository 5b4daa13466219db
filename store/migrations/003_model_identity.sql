-- A model is an architecture with tensors: networks that differ only in layers without tensors (pooling, activations)
-- can share all of them. The key of a table cannot be altered, so models is made again. An evaluation of a model that
-- the store does not hold keeps an empty architecture.

ALTER TABLE evaluations ADD COLUMN architecture_id TEXT;
UPDATE evaluations SET architecture_id = models.architecture_id
FROM models
WHERE models.model_sha256 = evaluations.model_sha256;
COMMENT ON COLUMN evaluations.model_sha256 IS 'The tensors; with architecture_id the model, see models.';
COMMENT ON COLUMN evaluations.architecture_id IS 'The architecture; with model_sha256 the model, see models. Empty only for a model that was not recorded.';

CREATE TABLE models_with_architecture (
    model_sha256 TEXT NOT NULL,
    architecture_id TEXT NOT NULL,
    trained_on TEXT NOT NULL,
    n_classes INTEGER NOT NULL CHECK (n_classes >= 1),
    params BIGINT NOT NULL CHECK (params >= 0),
    macs BIGINT CHECK (macs >= 0),
    origin TEXT NOT NULL,
    weights_path TEXT NOT NULL,
    recipe JSON,
    train_seed BIGINT,
    clean_accuracy_recorded DOUBLE CHECK (clean_accuracy_recorded BETWEEN 0 AND 100),
    label TEXT NOT NULL,
    created_at TIMESTAMP,
    recorded_at TIMESTAMP NOT NULL,
    PRIMARY KEY (model_sha256, architecture_id)
);
INSERT INTO models_with_architecture BY NAME FROM models;
DROP TABLE models;
ALTER TABLE models_with_architecture RENAME TO models;
COMMENT ON TABLE models IS 'Architectures with weights for a dataset.';
COMMENT ON COLUMN models.model_sha256 IS 'SHA-256 of the tensors, whatever file they are in; with architecture_id the identity of the model.';
COMMENT ON COLUMN models.architecture_id IS 'Its architecture, see architectures. Architectures that differ only in layers without tensors can share all tensors.';
COMMENT ON COLUMN models.trained_on IS 'Name of the dataset it was trained on.';
COMMENT ON COLUMN models.n_classes IS 'Number of outputs.';
COMMENT ON COLUMN models.params IS 'Number of trained parameters that a prediction uses.';
COMMENT ON COLUMN models.macs IS 'Multiply-accumulate operations of one prediction; empty when not counted.';
COMMENT ON COLUMN models.origin IS 'How it came here: trained, imported or shipped.';
COMMENT ON COLUMN models.weights_path IS 'File the weights were last read from or written to.';
COMMENT ON COLUMN models.recipe IS 'Training recipe as JSON, where known.';
COMMENT ON COLUMN models.train_seed IS 'Seed of the training, where known.';
COMMENT ON COLUMN models.clean_accuracy_recorded IS 'Clean accuracy in percent that came with the weights; a claim, not a measurement of this store.';
COMMENT ON COLUMN models.label IS 'Short name for people.';
COMMENT ON COLUMN models.created_at IS 'When the weights were made, UTC, where known.';
COMMENT ON COLUMN models.recorded_at IS 'When it was first recorded, UTC.';
