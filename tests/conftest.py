import torch

torch.set_num_threads(1)  # the networks of the tests are small: one thread is as fast, and the numbers are those of any machine
