"""Constants that a user may wonder about, each with its unit and why it has this value."""

SEED = 0
"""Seed of splits and draws. Any number does as well; one fixed number makes runs repeat."""

N_DRAWS = 10
"""Random subsets drawn per layer. They differ by 1 to 2 points at small sizes: ten pin the mean to half a point."""

N_DRAWS_ELSEWHERE = 4
"""Most draws at other input sizes than the backbone's own and of narrowed trunks. Good networks are sought there, not
the redundancy of layers, and large subsets differ little from draw to draw."""

SPLIT_SHARES = {"train": 0.60, "val": 0.15, "test": 0.25}
"""Shares of the images where the data brings no split. The test share is the certificate's power, so it is large."""

VAL_SHARE_OF_TRAIN = 0.20
"""Share of the training images held out for validation where the data brings train and test but no val."""

RIDGE_GRID = (1e-3, 1e-2, 1e-1, 1.0)
"""Ridge strengths tried per size, as multiples of the number of images (features have unit variance)."""

PIVOT_RIDGE = 1e-2
"""Ridge strength under which pivoted selection weighs its picks: copies of a neuron then come last."""

LOGISTIC_GRID = (1e-3, 1e-2, 1e-1, 1.0)
"""L2 strengths tried for logistic probes, per image (mean loss + strength / 2 * |W|^2, features of unit variance). On a
few thousand images the best lies between 1e-2 and 1e-1; below 1e-3 fits take minutes and lose accuracy."""

MAX_POOL = 2048
"""Most neurons in a pool over depths: factorising 2,048 takes a tenth of a second, and accuracy is flat well before."""

POOL_DEPTH = 8
"""Blocks, counted back from the cut, whose neurons are pooled. Earlier ones add width and no accuracy."""

CONFIDENCE = 0.95
"""One-sided confidence of the certificate."""

TARGET_BATCH_SIZE = 1
"""Images a call that latency is measured at: a camera or a request brings one at a time."""

TARGET_N_THREADS = 1
"""Threads that latency is measured with. One thread measures work; more also measure the machine's other load."""

OPSET = 20
"""ONNX opset of written files: new enough for GroupNorm and antialiased Resize, old enough for runtimes of 2024."""

INPUT_SIZE_SHARES = (5 / 7, 4 / 7, 3 / 7, 2 / 7)
"""Input sizes tried besides the backbone's own, as shares of it (224 px: 160, 128, 96 and 64)."""

INPUT_SIZE_STEP = 32
"""Input sizes are multiples of this many pixels, the stride of the deepest map of most backbones."""

NARROW_SHARES = (0.65, 0.5)
"""Shares of the multiply-accumulates left that ``--narrow auto`` tries: on CIFAR-10, EfficientNet-Lite0 keeps its whole
accuracy at the first and ResNet-50 98 % of it at the second (``benchmarks/narrowing.py``)."""

HEAL_RATE = 3e-3
"""Step of the optimiser (Adam) that heals narrowed weights, at its start, as a share of a parameter's size."""

N_NARROWING = 512
"""Training images whose statistics narrowing rests on: with their positions, tens of thousands of samples a width."""

BATCH_SIZE = {"cpu": 16, "cuda": 256}
"""Images per forward pass. On a CPU larger batches gain nothing and cost memory; a GPU is idle below a few hundred."""

SHARD_SIZE = 256
"""Images per feature shard: a few seconds of work on a CPU, the most that a killed run loses."""

N_SIZES = 64
"""Subset sizes scored per reading: steps of about a tenth, finer than the spread over draws."""

DELTA = 0.95
"""Share of a layer's own accuracy that its critical size keeps, in tables."""

MAX_PROBED = 10
"""Readings near the ridge front that get logistic probes: a fit takes about a second, and more of them differ by
less than the noise of validation."""

SCREEN_SLACK = 0.02
"""Accuracy (0 to 1) by which a reading may fall short of the ridge frontier and still get a logistic probe: the two
kinds of probe differ by about that much."""

N_FLATTERY = 256
"""Neurons of the probe that says how lucky the validation images are for a reading: enough to be about as accurate as
all of it, and cheap to fit five times."""

FLATTERY_RIDGE = 1e-1
"""Strength of that probe, as in ``RIDGE_GRID``: the one that most readings choose at this size."""

ROUND_TO = 8
"""Kept widths are rounded up to a multiple of this: vector units and tensor cores work in eights."""

FEATURE_BYTES = 2**29
"""Bytes of features kept in memory between readings (512 MiB): all of them for a few thousand images, so that nothing
is read twice there. Above, what is asked for is read from the disk anew, block by block."""

FEATURE_BLOCK = 4096
"""Images whose features are read and summed at once: 32 MiB at 2,048 neurons, and enough for fast products."""

FIT_BYTES = 2**31
"""Bytes of training features that one logistic fit may hold as float64 (2 GiB): 131,072 images of 2,048 neurons. A
float32 copy comes on top, half as large."""

ENOUGH_VAL = 2**12
"""Validation images from which on they alone choose: with 4,096, an accuracy of 85 % is known to half a point. Where
there are fewer, training images judge in turn as well (cross-validation), for a fit more each turn."""

MAX_VAL = 2**15
"""Most validation images that choices are made on: at 32,768 an accuracy is known to a quarter of a point."""

N_CALIBRATION = 64
"""Training images whose ranges int8 is calibrated on: 256 changed no range that mattered (solar cells, full backbone:
71.3 % where 64 gave 71.0 %, both with the probe in int8)."""

N_SENSITIVITY = 16
"""Validation images on which the error of quantising one node alone is measured: it is an average over logits already,
and nodes differ by orders of magnitude."""

MAX_SENSITIVITY_GROUPS = 48
"""Most groups of nodes whose sensitivity is measured: one takes a second or two."""

FLOAT_SHARES = (0, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Shares of the quantisable nodes kept in float, the most sensitive first, tried until the file's validation accuracy
meets the budget. Beyond half of them the file is neither small nor fast."""

MAX_FILES = 8
"""Most files that are built and tested for one export of another precision or with preprocessing: the cheapest, the
safest, and those evenly between in the order of cost. Each costs about ten seconds; four left gaps so wide that a file
of 13 times fewer MACs failed and one of 1.1 times fewer shipped."""

MIN_AGREEMENT = 0.99
"""Share of images that must keep their first class when the file resizes them instead of Pillow."""

CALIBRATION_BYTES = 2**32
"""Bytes of activations that narrowing may hold between layers (4 GiB): at 224 px, 445 images of a ResNet-50, 1,019 of
an EfficientNet-Lite0, 1,419 of a ViT-S/16."""

CALIBRATION_ROWS = 2**15
"""Rows that the moments of a hidden width are gathered from, spread over all images: ten for each of 3,072 neurons."""

N_IMPORTANCE = 64
"""Calibration images over which it is averaged how much an error of a hidden layer matters to what comes out."""

FOLD_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Strengths tried for folded weights: variance of the noise that regularises, as a share of the mean variance of a
layer's inputs. The choice is made by images that had no part in the fold."""
