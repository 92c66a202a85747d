"""Isometric representations: features that keep the distances of the inputs."""

__all__ = []
