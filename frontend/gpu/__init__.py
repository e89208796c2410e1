"""The model on a shared GPU: one frontend of each Triton, the keeper, loads and unloads it.

Read `decide` first: what the keeper does, and when. `driver` observes and carries out, and `keeper`
is what the rest of the service uses. `model_boss.tenure` tells what the keeper holds of the memory
and for how long it may rely on it. `model_boss.GpuLedger` is what the keeper needs of whoever gives
out the memory.
"""
