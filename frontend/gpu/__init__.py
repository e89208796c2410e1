"""The model on a shared GPU: one frontend of each Triton, the keeper, loads and unloads it.

Read `decide` first: what the keeper does, and when. `ledger` says what it needs of whoever gives the
memory out, `tenure` what it holds of it; `driver` observes and carries out, `keeper` is the door for the
rest of the service.
"""
