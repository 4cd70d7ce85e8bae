"""What an author of tools, resources, prompts and completions touches.

`content` holds the values that functions return and the questions they may ask, `forms` the rules for a question's
form, `signatures` turns a function into schemas and back, `docstrings` reads what its author wrote, `declarations` are
the decorators, `context` is what a running function may do. `mcpd` itself exports the public names, lazily.

Law: nothing in this package imports trio, and jsonschema_rs is loaded only through `wire.schema` and only when a schema
needs it, so that a worker process starts with msgspec and the author's module alone.
"""
