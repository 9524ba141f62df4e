"""Layers that have two forms: PyTorch's operators, and kernels that move fewer bytes."""
