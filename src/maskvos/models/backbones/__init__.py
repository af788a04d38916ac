"""Backbones: feature pyramids with strides 4, 8, 16 and 32."""
