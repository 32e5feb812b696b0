"""How well a model predicts text it has not seen: bits per byte, beside honest baselines."""
