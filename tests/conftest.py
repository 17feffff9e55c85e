"""One torch thread for each test worker: two workers of many threads each would wait for one another."""

import torch

torch.set_num_threads(1)
