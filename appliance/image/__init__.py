"""Images: names, the content store, layers turned into read-only disks, load and pull. Image IDs and digests are Docker's."""
