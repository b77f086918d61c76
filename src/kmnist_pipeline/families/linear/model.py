"""Logistic and softmax regression: probabilities, loss and weights.

A model is (D + 1, K) weights for inputs with a leading 1 (kmnist_linear IV, VI), so row 0 is the
bias. Softmax regression has one column for each class; logistic regression has one column, for
the log-odds of class 1.
"""

from __future__ import annotations

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    """Class probabilities (..., C) of logits (..., C), safe for large logits (kmnist_linear VI)."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    exponentials /= exponentials.sum(axis=-1, keepdims=True)
    return exponentials


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """g(a) = 1 / (1 + exp(-a)) elementwise, safe for large |a| (kmnist_linear IV)."""
    return 0.5 + 0.5 * np.tanh(0.5 * logits)


def activate(kind: str, logits: np.ndarray) -> np.ndarray:
    """The output of the model for logits (..., K): sigmoid or softmax."""
    return sigmoid(logits) if kind == "logistic" else softmax(logits)


def one_hot(kind: str, labels: np.ndarray, classes: int) -> np.ndarray:
    """Targets in the shape of the output: (N, 1) for logistic regression, (N, C) for softmax."""
    if kind == "logistic":
        return labels[:, None].astype(float)
    return np.eye(classes)[labels]


def cross_entropy(kind: str, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The loss of each row in nats, from logits (N, ..., K) and labels (N,): (N, ...).

    Computed from logits, not probabilities, so that a confident mistake costs a large but
    finite loss.
    """
    if kind == "logistic":
        a = logits[..., 0]
        y = labels.reshape(-1, *[1] * (a.ndim - 1))
        return np.logaddexp(0, np.where(y == 1, -a, a))
    top = logits.max(axis=-1)
    total = np.log(np.exp(logits - top[..., None]).sum(axis=-1)) + top
    rows = np.arange(len(labels))
    return total - logits[rows, ..., labels]


def predicted(kind: str, logits: np.ndarray) -> np.ndarray:
    """The class of each row of logits (N, ..., K): (N, ...)."""
    if kind == "logistic":
        return (logits[..., 0] > 0).astype(np.int64)
    return logits.argmax(axis=-1)


def probabilities(
    model: dict, tensors: dict[str, np.ndarray], pixels: np.ndarray, classes: int
) -> np.ndarray:
    """Class probabilities (N, C) float64.

    model: its settings, only `kind` is used; tensors: `weights` (D + 1, K), `shift` and `scale`
    (D,); pixels: (N, ...) uint8, D for each image.
    """
    weights = tensors["weights"].astype(np.float64)
    folded = weights[1:] / tensors["scale"][:, None]
    bias = weights[0] - tensors["shift"] @ folded
    output = activate(model["kind"], flat(pixels).astype(np.float64) @ folded + bias)
    if model["kind"] == "logistic":
        return np.hstack([1 - output, output])
    return output


def flat(pixels: np.ndarray) -> np.ndarray:
    """Images as rows, (N, D)."""
    return pixels.reshape(len(pixels), -1)


def class_weights(tensors: dict[str, np.ndarray]) -> np.ndarray:
    """The weights of the scaled pixels, one row for each output: (K, D)."""
    return tensors["weights"][1:].T
