"""The paper's constraint: the sparse copy and the dual, penalty schedules, and a monitor of how they get on."""
