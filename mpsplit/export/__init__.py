"""Checkpoint bytes -> sliced modules -> dynamo graph -> TorchScript -> pnnx -> ncnn. One file a stage; may import torch."""
