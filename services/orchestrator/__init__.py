"""The orchestrator: plans a run, has it done by the other services, and keeps its state."""
