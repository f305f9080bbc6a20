"""The CUDA target: `target.py` first; the kernels themselves are csrc/cuda."""
