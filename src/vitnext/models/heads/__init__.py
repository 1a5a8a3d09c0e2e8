"""Segmentation heads: from a backbone's feature pyramid to the logits of every position."""
