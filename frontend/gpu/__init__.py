"""The model on a GPU that is shared: loaded when a request needs it, unloaded when it must go."""
