"""The CPU target: `target.py` first; the kernels themselves are csrc/cpu."""
