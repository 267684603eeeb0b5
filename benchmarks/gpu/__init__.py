"""Speed on a GPU, of the product's own engine; needs torch, no DVC, Dask, pydantic or network."""
