"""A projection head as an ONNX graph, which runs without torch and without this project.

    import onnxruntime

    head = onnxruntime.InferenceSession("speech_head.onnx")
    [embedding] = head.run(["speech_embedding"], {"speech_vector": stores.speech("test")})  # (N, 1024) -> (N, 512)

The graph has the steps of `Heads` one by one, in float32: standardise, sum the layers where they are weighted, the
Linear layer, ReLU, unit length. A row that is zero before its length is divided out stays zero.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pipeline.core.errors import UsageError, required_library
from pipeline.inference.description import Description
from pipeline.objectives.space import EPSILON
from pipeline.training.heads import Heads

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

SIDES = {"audio": "speech", "text": "text"}  # of the heads -> in the names of files, inputs and outputs
ONNX_FILES = tuple(f"{name}_head.onnx" for name in SIDES.values())
OPSET, IR_VERSION = 17, 8  # of 2022: read by onnxruntime 1.12 and later
MAX_BYTES = 2**31 - 2**20  # of weights: protobuf, the format of the file, ends at 2 GiB


def onnx_files(heads: Heads, described: Description, settings: bytes) -> dict[str, bytes]:
    """Both heads, by file name. Their metadata are JSON: the encoder, and what model.safetensors has too."""
    contents = {}
    for name, side in zip(ONNX_FILES, SIDES, strict=True):
        identity = described.identity(settings)
        metadata = identity | {
            "format": "emotionrankclap-onnx/1",
            "encoder": getattr(described.encoders, side).model_dump(mode="json"),
            "fingerprint": identity["fingerprint"][side],
            "vectors": getattr(described.training, SIDES[side]).model_dump(mode="json"),
            "similarity": described.similarity,
        }
        contents[name] = onnx_head(heads, side, {key: json.dumps(value) for key, value in metadata.items()})
    return contents


def onnx_head(heads: Heads, side: str, metadata: Mapping[str, str]) -> bytes:
    """The file of the head of a `side`, "audio" or "text": NAME_vector (N, dim) float32 -> NAME_embedding (N, width).

    NAME is speech or text, N is free. Equal heads and metadata give equal bytes. Raises UsageError without the package
    onnx, and for weights of more than 2 GiB.
    """
    required_library("onnx", "onnx", "save_pretrained with onnx")
    from onnx import TensorProto, helper

    linear, layer_sum = getattr(heads, side), getattr(heads, f"{side}_sum")
    nbytes = 4 * linear.weight.numel()
    if nbytes > MAX_BYTES:
        found, action = f"weights of {nbytes / 2**30:.1f} GiB", "Train a smaller width, or export without onnx."
        raise UsageError(f"{SIDES[side]}_head.onnx", found, "at most 2 GiB, what one ONNX file holds", action)
    name, dims = SIDES[side], (len(getattr(heads, f"{side}_mean")), linear.out_features)
    graph = _Graph(f"{name}_vector")
    if heads.standardises(side):
        graph.apply("Sub", "centred", {"mean": getattr(heads, f"{side}_mean")})
        graph.apply("Div", "standardised", {"std": getattr(heads, f"{side}_std")})
    if layer_sum is not None:
        layers = len(layer_sum.logits)
        graph.apply("Reshape", "by_layer", {"shape": np.array([0, layers, linear.in_features])})  # 0: N as it is
        graph.apply("MatMul", "layer_mean", {"layer_weights": layer_sum.logits.softmax(0)}, constants_first=True)
        graph.apply("Mul", "layer_sum", {"layer_scale": layer_sum.scale})
    graph.apply("Gemm", "projected", {"weight": linear.weight, "bias": linear.bias}, transB=1)
    if heads.activation == "relu":
        graph.apply("Relu", "activated")
    projected = graph.value
    graph.apply("ReduceL2", "length", axes=[1], keepdims=1)
    graph.apply("Max", "divisor", {"epsilon": np.array([EPSILON], np.float32)})
    graph.nodes.append(helper.make_node("Div", [projected, graph.value], [f"{name}_embedding"]))
    ends = [
        helper.make_tensor_value_info(f"{name}_{what}", TensorProto.FLOAT, ["N", dim])
        for what, dim in zip(("vector", "embedding"), dims, strict=True)
    ]
    made = helper.make_graph(graph.nodes, f"{name}_head", ends[:1], ends[1:], graph.constants)
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(made, producer_name="emotionrankclap", opset_imports=opset, ir_version=IR_VERSION)
    helper.set_model_props(model, dict(metadata))
    return bytes(model.SerializeToString(deterministic=True))


class _Graph:
    """Operators one after the other; `value` is what the last one gives."""

    def __init__(self, value: str) -> None:
        self.value = value
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def apply(
        self,
        operator: str,
        output: str,
        constants: Mapping[str, Tensor | np.ndarray[Any, Any]] | None = None,
        *,
        constants_first: bool = False,
        **attributes: Any,
    ) -> None:
        """Apply an operator of ONNX to `value` and the `constants`."""
        from onnx import helper, numpy_helper

        named = constants or {}
        for name, constant in named.items():
            array = constant.detach().cpu().numpy() if isinstance(constant, Tensor) else constant
            self.constants.append(numpy_helper.from_array(array, name))
        inputs = [*named, self.value] if constants_first else [self.value, *named]
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        self.value = output
