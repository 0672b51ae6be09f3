"""Who does the stages of a run: this process, or workers on a cluster."""
