"""The repair ladder: how the layers that stay take over the work of what was removed."""
