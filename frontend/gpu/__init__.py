"""The model on a shared GPU: one frontend of each Triton, the keeper, loads and unloads it.

Read `decide` first: what the keeper does, and when. `driver` observes and carries out, `keeper` is
the door for the rest of the service. What the keeper holds of the memory, and for how long it may
rely on it, is told in `model_boss.tenure`; what it needs of whoever gives the memory out, in
`model_boss.GpuLedger`.
"""
