"""Where the stages of the pipeline run: all units of a stage before those of the next."""
