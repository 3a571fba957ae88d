"""Cards: NVIDIA and AMD counters, energy from them, memory as torch counts it."""
