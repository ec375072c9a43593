"""Log drivers that send output elsewhere."""
