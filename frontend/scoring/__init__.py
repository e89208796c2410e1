"""A request's way: admission, tokens, images, cache, Triton, ranking; and health, which goes it too."""
