"""Write a trained model in a format that runs without torch, and check that it still gives the same answers."""
