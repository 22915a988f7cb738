"""Talking to the running service; what a command needs of ``relay.queue.control``."""

from relay.queue.control import request

__all__ = ["request"]
