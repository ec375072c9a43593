"""Docker's Engine API, 1.22 to 1.51. Each file holds the routes of one noun, or builds and decodes their JSON.

README.md lists which route is in which file, and says how to add one. Routes call Protocols of `backend.py`, which `appliance/engine`
satisfies; `composition.py` joins the two.
"""
