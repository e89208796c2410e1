"""The way of a request: admission, images, tokens, cache, Triton, ranking; and health, which walks the same way."""
