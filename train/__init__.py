"""Draw a small world, train the model `tiny` on it, measure it, and export it in the llava-hf layout."""
