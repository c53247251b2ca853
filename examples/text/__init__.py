"""The default calibration and validation texts, installed as `foldrank.texts`. Licences: LICENCES.md beside this."""
