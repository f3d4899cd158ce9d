"""Remove the influence of chosen training data from a trained model, and give evidence that it is gone."""
