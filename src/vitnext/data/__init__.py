"""Labelled images: what a path or a name holds, how it is split, and whether anything is wrong with it."""
