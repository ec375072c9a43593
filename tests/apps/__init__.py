"""Programs that people really run, in images made of Debian's packages. `make test-apps`."""
