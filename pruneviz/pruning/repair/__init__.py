"""The repair ladder: new weights for kept layers, so that they compensate for removed inputs."""
