"""A request's way: admission, tokens, images, cache, Triton, ranking; health goes it, too."""
