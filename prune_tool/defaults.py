"""Constants that a user may wonder about, each with its unit and why it has this value."""

SEED = 0
"""Seed of splits and draws. Any number does as well; one fixed number makes runs repeat."""

N_DRAWS = 10
"""Random subsets drawn per layer. The spread over draws is 1 to 2 points at small sizes, so ten pin its mean to half a point."""

SPLIT_SHARES = {"train": 0.60, "val": 0.15, "test": 0.25}
"""Shares of the images where the data brings no split. The test share is the certificate's power, hence larger than val's."""

VAL_SHARE_OF_TRAIN = 0.20
"""Share of the training images held out for validation where the data brings train and test but no val."""

RIDGE_GRID = (1e-3, 1e-2, 1e-1, 1.0)
"""Ridge strengths tried per size, as multiples of the number of images (features have unit variance)."""

LOGISTIC_GRID = (1e-4, 1e-3, 1e-2, 1e-1)
"""L2 strengths tried for logistic probes, per image (mean loss + strength / 2 * |W|^2, features of unit variance)."""

MAX_POOL = 2048
"""Most neurons in a pool over depths: factorising 2,048 takes a tenth of a second, and accuracy is flat well before."""

POOL_DEPTH = 8
"""Blocks, counted back from the cut, whose neurons are pooled. Earlier ones add width and no accuracy."""

CONFIDENCE = 0.95
"""One-sided confidence of the certificate."""

OPSET = 20
"""ONNX opset of written files: new enough for GroupNorm and antialiased Resize, old enough for runtimes of 2024."""
