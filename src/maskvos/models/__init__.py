"""The MaskVOS network and its parts: backbones, fusion, decoders, head, inference folding."""
