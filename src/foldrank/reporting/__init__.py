"""The HTML report and the model card, made from the JSON files alone."""
