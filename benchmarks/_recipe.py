"""The linear probe of Nanda et al., "Diffused Redundancy in Pre-trained Representations" (NeurIPS 2023), one a subset.

SGD at rate 0.1 with momentum 0.9 on raw features, batches of 256, 50 epochs. Two settings that decide how far it gets
are read from the authors' released code (github.com/nvedant07/diffused-redundancy and its deep-learning-base): the
rate falls tenfold every 20 epochs, and weights decay by 5e-4. Their runs push augmented images through the backbone
in every epoch; here features are computed once and kept, which is all that makes a comparison affordable.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from prune_tool.redundancy.checks import Features, Int64

LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4
N_EPOCHS, BATCH_SIZE = 50, 256
DECAY_EVERY, DECAY = 20, 0.1


def fit_recipe(train: Features, labels: Int64, n_classes: int, device: str, seed: int) -> nn.Linear:
    """Train on ``train (n, k)`` raw features with ``labels (n,)``; ``seed`` decides the start and the batches."""
    X = torch.from_numpy(np.ascontiguousarray(train, np.float32)).to(device)
    y = torch.from_numpy(labels).to(device)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = nn.Linear(X.shape[1], n_classes).to(device)
    optimiser = torch.optim.SGD(probe.parameters(), LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, DECAY_EVERY, DECAY)
    for _ in range(N_EPOCHS):
        order = torch.randperm(len(y), generator=generator).to(device)
        for rows in order.split(BATCH_SIZE):
            optimiser.zero_grad()
            F.cross_entropy(probe(X[rows]), y[rows]).backward()
            optimiser.step()
        schedule.step()
    return probe


@torch.inference_mode()
def n_correct(probe: nn.Linear, features: Features, labels: Int64) -> int:
    """Correct predictions on raw ``features (m, k)`` with ``labels (m,)``."""
    X = torch.from_numpy(np.ascontiguousarray(features, np.float32)).to(probe.weight.device)
    predicted = probe(X).argmax(dim=1).cpu().numpy()
    return int((predicted == labels).sum())
