"""The guest's entry: no more than the import that starts the tether."""

from tether.__main__ import main

main()
