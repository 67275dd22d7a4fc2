"""Data: examples, the pools that roles may read, and the streams of batches drawn from them."""
