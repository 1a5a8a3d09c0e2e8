"""How good a model is: metrics over a labelled split, and a self-contained HTML report. Needs no torch."""
