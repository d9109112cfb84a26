"""The `xfrmi` command."""
