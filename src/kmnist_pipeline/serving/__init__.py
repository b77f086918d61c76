"""Using a trained model: choosing one, reading images, predicting, registering a champion."""
