"""A plate: one file that runs a model at fixed sizes by the compiled kernels, with numpy and without torch."""
