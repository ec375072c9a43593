"""The image of the builder (`make builder-image`): BuildKit and what it executes."""
