"""The code with which MLflow loads a registered model: models-from-code, without pickle."""

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel

from kmnist_pipeline import arithmetic
from kmnist_pipeline.serving import classifier


class Served(PythonModel):
    """A registered classifier: it takes images (N, H, W[, 3]) and returns a row for each."""

    def load_context(self, context):
        """Read the weights, once."""
        arithmetic.foreign()
        self._classifier = classifier.of_bundle(Path(context.artifacts["bundle"]))

    def predict(self, context, model_input, params=None):
        """The answers for images, uint8, grey ones white on black, as a table."""
        pixels = np.asarray(model_input)
        if pixels.size and pixels.max() > self._classifier.pixel_max:
            raise MlflowException.invalid_parameter_value(
                f"the white of this model is {self._classifier.pixel_max}, but a pixel is "
                f"{pixels.max()}"
            )
        return pd.DataFrame([vars(answer) for answer in self._classifier.answers(pixels)])


mlflow.models.set_model(Served())
