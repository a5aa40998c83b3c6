"""Networks in ONNX files: one picture tensor in, one tensor out."""

from pathlib import Path

import numpy as np

from cfpp.config import ParamsError
from cfpp.models.external import ExternalFileError


class OnnxNetwork:
    """A session on the CPU with one thread: a picture gives the same numbers on every machine.

    Attributes:
        path: of the file.
        side: height and width of the pictures that it takes, read off the graph.

    Raises:
        ParamsError: there is no such file.
        ExternalFileError: not an ONNX network of one float32 input [n, 3, H, W].
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime

        if not path.is_file():
            raise ParamsError(f"{path}: not found; weights.identity and weights.landmarks name .onnx files")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors share no base but this
            raise ExternalFileError(f"{path}: onnxruntime cannot read it: {error}") from error
        inputs = self._session.get_inputs()
        shape = list(inputs[0].shape)
        known = len(shape) == 4 and shape[1] == 3 and all(isinstance(value, int) for value in shape[2:])
        if len(inputs) != 1 or not known or inputs[0].type != "tensor(float)":
            found = ", ".join(f"{item.name} {item.type} {item.shape}" for item in inputs)
            raise ExternalFileError(f"{path}: takes {found}; expected one tensor(float) [n, 3, H, W]")
        self.path = path
        self.side: tuple[int, int] = (shape[2], shape[3])
        self._input = inputs[0].name
        self._batch = shape[0] if isinstance(shape[0], int) else None

    def run(self, pictures: np.ndarray) -> np.ndarray:
        """The first output for float32 pictures [B, 3, H, W], RGB, scaled as the network wants."""
        pictures = np.ascontiguousarray(pictures, dtype=np.float32)
        if self._batch is None:
            return self._run(pictures)
        if self._batch != 1:
            raise ExternalFileError(
                f"{self.path}: takes {self._batch} pictures at a time; expected 1 or any number"
            )
        return np.concatenate([self._run(picture[None]) for picture in pictures])

    def _run(self, pictures: np.ndarray) -> np.ndarray:
        output: np.ndarray = self._session.run(None, {self._input: pictures})[0]
        return output
