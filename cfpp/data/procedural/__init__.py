"""The embedded faces: people who do not exist, rendered with their exact ground truth."""

from cfpp.data.procedural.face import Face
from cfpp.data.procedural.render import render

__all__ = ["Face", "render"]
