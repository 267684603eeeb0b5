"""Headstart: frozen backbones in, cached embeddings kept, heads swapped in seconds."""
