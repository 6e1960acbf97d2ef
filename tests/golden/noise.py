"""Writes noise/torch_cpu.f32: what torch.randn gives after torch.manual_seed(7), call after call.

The lengths are those of `torch_lengths` in tests/kernels/noise.rs; the values follow each other as
little-endian f32. Run in tests/golden: python noise.py. Written with torch 2.15.0 on the CPU.
"""

import torch

LENGTHS = [*range(1, 41), 100, 4096, 5, 16, 3, 17, 1, 1, 40, 7, 15, 31, 2, 100, 9]

torch.manual_seed(7)
values = torch.cat([torch.randn(n) for n in LENGTHS])
open("noise/torch_cpu.f32", "wb").write(values.numpy().astype("<f4").tobytes())
