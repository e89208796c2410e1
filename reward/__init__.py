"""ImageReward as a library: bytes and prompts in, rewards out.

Read `contract` first, then `preprocess`, `tokenise`, `network` and `runtime` in the order a request
passes through them. Importing `reward` imports no torch and no onnxruntime.
"""
