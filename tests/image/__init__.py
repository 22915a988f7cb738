"""The container image, built and run; `make image-test` (docs/container.md)."""
