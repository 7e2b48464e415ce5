"""Models for programs that run without torch."""

from minibert.export.onnx_file import to_onnx as to_onnx
