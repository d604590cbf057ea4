"""Multi-layer perceptrons."""

from __future__ import annotations

from torch import nn

__all__ = ["mlp"]


def mlp(
    inputs: int | None,
    outputs: int,
    hidden: int = 64,
    layers: int = 0,
    activation: type[nn.Module] = nn.Tanh,
    normalization: str = "none",
    dropout: float = 0.0,
) -> nn.Sequential:
    """A multi-layer perceptron on the last dimension.

    Args:
        inputs: input features; None: taken from the first call.
        outputs: output features.
        hidden: units of each hidden layer.
        layers: hidden layers; 0: one linear map.
        activation: the non-linearity after each hidden layer.
        normalization: normalization of the hidden layers: none, layernorm, or batchnorm (over all leading dimensions).
        dropout: probability of dropping a hidden unit.

    Returns:
        a module [..., inputs] -> [..., outputs].

    Raises:
        ValueError: an unknown normalization.
    """
    if normalization not in ("none", "layernorm", "batchnorm"):
        raise ValueError(f"unknown normalization {normalization!r}; valid: none, layernorm, batchnorm")
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts.append(_linear(inputs, hidden))
        if normalization == "layernorm":
            parts.append(nn.LayerNorm(hidden))
        elif normalization == "batchnorm":
            parts.append(_BatchNorm(hidden))
        parts.append(activation())
        if dropout:
            parts.append(nn.Dropout(dropout))
        inputs = hidden
    parts.append(_linear(inputs, outputs))
    return nn.Sequential(*parts)


def _linear(inputs: int | None, outputs: int) -> nn.Linear:
    return nn.LazyLinear(outputs) if inputs is None else nn.Linear(inputs, outputs)


class _BatchNorm(nn.Module):
    """Batch normalization of the last dimension, for any number of leading dimensions."""

    def __init__(self, features: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(features)

    def forward(self, x):  # type: ignore[no-untyped-def]
        return self.norm(x.reshape(-1, x.shape[-1])).view(x.shape)
