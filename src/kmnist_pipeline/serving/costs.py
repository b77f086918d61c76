"""How long the training of each model takes, for people who lack its weights."""

from __future__ import annotations

# Minutes on one core of an AMD EPYC with AVX2, of all seeds, folds and trials together: the sum of
# the durations in the store of fits. docs/predict.md has the same table.
MINUTES = {
    "digits_sklearn_logistic": 0.1,
    "digits_softmax": 0.1,
    "digits_cnn": 0.2,
    "digits_softmax_grid": 0.2,
    "kmnist_sklearn_logistic": 0.2,
    "kmnist_logistic_2_6": 0.3,
    "kmnist_logistic_0_6": 0.5,
    "mnist_sklearn_logistic": 0.8,
    "kmnist_logistic_0_6_grid": 6,
    "kmnist_logistic_2_6_grid": 6,
    "kmnist_simple_cnn_folds": 18,
    "kmnist_siamese": 23,
    "mnist_simple_cnn": 24,
    "kmnist_simple_cnn": 33,
    "kmnist_tuned_cnn_seeds": 34,
    "kmnist_softmax": 35,
    "kmnist_softmax_grid": 36,
    "kmnist_linear_protocol": 47,
    "kmnist_resnet_like": 48,
    "kmnist_improved_cnn": 73,
    "kmnist_tuned_cnn": 103,
}


def said(model: str) -> str:
    """The training time as the end of a sentence; "" for a model that was not measured."""
    minutes = MINUTES.get(model)
    if minutes is None:
        return ""
    if minutes < 1:
        return " in less than a minute"
    return f" in about {minutes:g} minutes on one core"
