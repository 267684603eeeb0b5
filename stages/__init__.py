"""The verbs of the pipeline, one module a DVC stage."""

from pipeline.errors import hear_interrupts

hear_interrupts()  # before a stage's own imports, which take a second or more
