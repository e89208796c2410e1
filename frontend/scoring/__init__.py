"""A request's way: admission, tokens, images, cache, Triton, ranking; and the health monitor."""
