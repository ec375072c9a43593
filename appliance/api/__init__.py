"""Docker's remote API, 1.22 to 1.51: routes one file per noun, wire shapes by version. Backends come from `composition.py`."""
