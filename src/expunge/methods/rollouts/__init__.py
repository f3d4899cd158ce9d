"""Reinforcement on the model's own answers: sampling, rewards, and the loss on them, which methods share."""
