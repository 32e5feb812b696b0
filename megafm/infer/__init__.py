"""Text from a model: the sampler, cached generation, and streaming of whole characters."""
