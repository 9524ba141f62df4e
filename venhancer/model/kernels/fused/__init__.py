"""Triton's form of every layer: each input is read once or twice, each output written once."""

from __future__ import annotations

from venhancer.model.kernels.forms import Forms
from venhancer.model.kernels.fused.attention import attend
from venhancer.model.kernels.fused.feed_forward import geglu
from venhancer.model.kernels.fused.group_norm import norm, norm_silu
from venhancer.model.kernels.fused.residual import add_norm

FUSED = Forms(norm=norm, norm_silu=norm_silu, attend=attend, geglu=geglu, add_norm=add_norm)
