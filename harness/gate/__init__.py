"""The gate: rules, the evidence for and against them, and the verdicts."""
