"""REST: routes, bodies and schemas, middleware, API keys, errors as problem+json."""
