"""Shared by all tests: one thread, since the tensors are tiny."""

import torch

torch.set_num_threads(1)
