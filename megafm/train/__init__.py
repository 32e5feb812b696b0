"""Pretraining: from token shards to a run folder of checkpoints and metrics."""
