"""What the tests of targets, predictions and dtypes share."""

import torch

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
