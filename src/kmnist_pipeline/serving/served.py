"""The code with which MLflow loads a registered model: models-from-code, without pickle."""

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.pyfunc import PythonModel

from kmnist_pipeline import arithmetic
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.serving import character, classifier, fingerprint


class Served(PythonModel):
    """A registered classifier: it takes pictures (N, h, w[, 3]) and returns a row for each."""

    def load_context(self, context):
        """Read the weights, once. Raises MlflowException if a file of the bundle was altered."""
        arithmetic.foreign()
        bundle = Path(context.artifacts["bundle"])
        version = bundle.parents[1]
        if (version / MLMODEL_FILE_NAME).exists():  # not yet while MLflow saves the version
            known = (Model.load(str(version)).metadata or {}).get(fingerprint.BUNDLE)
            if fingerprint.of(bundle) != known:
                problem = f"{bundle}: its files are not those that were registered"
                raise MlflowException.invalid_parameter_value(problem)
        self._classifier = classifier.of_bundle(bundle)

    def predict(self, context, model_input, params=None):
        """The answers for pictures, uint8, as a table.

        params: with `as_is` the pictures are already cut as the training images.
        """
        pictures, form = np.asarray(model_input), self._classifier.form
        make = character.as_it_is if (params or {}).get("as_is") else character.prepare
        white = np.float32(character.white(pictures, form))
        try:
            prepared = [make(picture / white, form) for picture in pictures]
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        pixels = np.stack([each.pixels for each in prepared])
        answers = self._classifier.answers(pixels, [each.doubt for each in prepared])
        return pd.DataFrame(
            [
                {**vars(answer), "prepared": str(each)}
                for answer, each in zip(answers, prepared, strict=True)
            ]
        )


mlflow.models.set_model(Served())
