"""The verbs of the pipeline, one module a DVC stage."""
