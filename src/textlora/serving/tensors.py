"""Tensors of the Open Inference Protocol, in JSON and in the binary tensor extension.

A binary request is a JSON head of ``Inference-Header-Content-Length`` bytes, followed by the data of the inputs
that have a ``binary_data_size``. An element of a BYTES tensor is four bytes of length, little-endian, and so many
bytes (Triton Inference Server, ``docs/protocol/extension_binary_data.md``).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textlora.serving.refusals import ServerFault

HEAD_LENGTH = "Inference-Header-Content-Length"
LENGTH = struct.Struct("<I")
NUMBERS = {"FP32": np.dtype("<f4"), "BOOL": np.dtype("?")}


def _refused(message: str) -> ServerFault:
    return ServerFault(400, "validation", message)


def split_body(body: bytes, head_length: str | None) -> tuple[dict[str, Any], bytes]:
    """Return the JSON head of a request and the bytes behind it.

    Raises:
        ServerFault: 400 where there is no JSON object of that length.
    """
    length = len(body)
    if head_length is not None:
        if not head_length.isascii() or not head_length.isdecimal() or int(head_length[:20]) > len(body):
            raise _refused(f"{HEAD_LENGTH} must be a number of bytes within the body.")
        length = int(head_length)
    try:
        head = json.loads(body[:length])
    except (ValueError, RecursionError):
        raise _refused("The request is not JSON.") from None
    if not isinstance(head, dict):
        raise _refused("The request is not a JSON object.")
    return head, body[length:]


@dataclass(frozen=True, slots=True)
class TextInput:
    """The one input of a request.

    Attributes:
        texts: its elements.
        shape: (N,) or (N, 1).
    """

    texts: list[str]
    shape: tuple[int, ...]


def read_texts(head: Mapping[str, Any], binary: bytes, *, name: str) -> TextInput:
    """Return the texts of a request.

    Args:
        head: the JSON object.
        binary: what follows it.
        name: of the input.

    Raises:
        ServerFault: 400 where the inputs are not one BYTES tensor of that name, shape (N,) or (N, 1).
    """
    inputs = head.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise _refused(f"Expected one input, {name!r}.")
    tensor = inputs[0]
    if tensor.get("name") != name or tensor.get("datatype") != "BYTES":
        raise _refused(f"Expected the input {name!r} of datatype BYTES.")
    shape = _shape(tensor.get("shape"))
    texts = _elements(tensor, binary)
    if len(texts) != math.prod(shape):
        raise _refused(f"The input has {len(texts)} elements, which is not what its shape says.")
    return TextInput(texts, shape)


def _shape(shape: Any) -> tuple[int, ...]:
    numbers = isinstance(shape, list) and all(type(each) is int and each >= 0 for each in shape)
    if not numbers or len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):  # noqa: PLR2004
        raise _refused("The shape of the input must be [N] or [N, 1].")
    return tuple(shape)


def _elements(tensor: Mapping[str, Any], binary: bytes) -> list[str]:
    parameters = tensor.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is None:
        return _flat(tensor.get("data"))
    if type(size) is not int or size != len(binary):
        raise _refused("binary_data_size is not the number of bytes behind the JSON.")
    return [_text(each) for each in unpack_bytes(binary)]


def _flat(data: Any) -> list[str]:
    """Return the texts of a flat or nested list."""
    if not isinstance(data, list):
        raise _refused("The input has neither `data` nor `binary_data_size`.")
    flat = [each for row in data for each in (row if isinstance(row, list) else [row])]
    if not all(isinstance(each, str) for each in flat):
        raise _refused("Every element of the input must be a string.")
    return flat


def unpack_bytes(binary: bytes) -> list[bytes]:
    """Return the elements of a BYTES tensor.

    Raises:
        ServerFault: 400 where the lengths do not add up.
    """
    found, place = [], 0
    while place < len(binary):
        start = place + LENGTH.size
        if start > len(binary):
            raise _refused("The binary data ends within a length.")
        place = start + LENGTH.unpack_from(binary, place)[0]
        if place > len(binary):
            raise _refused("The binary data ends within an element.")
        found.append(binary[start:place])
    return found


def pack_bytes(elements: Sequence[bytes]) -> bytes:
    """Return the binary data of a BYTES tensor."""
    return b"".join(part for element in elements for part in (LENGTH.pack(len(element)), element))


def _text(element: bytes) -> str:
    try:
        return element.decode("utf-8")
    except UnicodeDecodeError:
        raise _refused("An element of the input is not UTF-8.") from None


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor of an answer.

    Attributes:
        name: of the output.
        datatype: BYTES, FP32 or BOOL.
        values: as an array; of BYTES its strings.
    """

    name: str
    datatype: str
    values: NDArray[Any]

    @property
    def packed(self) -> bytes:
        """Its binary data."""
        if self.datatype == "BYTES":
            return pack_bytes([str(each).encode("utf-8", "replace") for each in self.values.ravel()])
        return self.values.astype(NUMBERS[self.datatype]).tobytes()

    def described(self, **more: Any) -> dict[str, Any]:
        """Return its part of the JSON."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.values.shape), **more}


def join_answer(head: dict[str, Any], outputs: Sequence[tuple[Output, bool]]) -> tuple[bytes, int | None]:
    """Return the body of an answer and the length of its JSON head, None where that is all.

    Args:
        head: everything but the outputs.
        outputs: each with whether it shall be binary.
    """
    described, data = [], []
    for output, binary in outputs:
        if binary:
            data.append(output.packed)
            described.append(output.described(parameters={"binary_data_size": len(data[-1])}))
        else:
            described.append(output.described(data=output.values.ravel().tolist()))
    text = json.dumps({**head, "outputs": described}, allow_nan=False).encode("ascii")
    return b"".join([text, *data]), len(text) if data else None
