"""Layers and views through extraction: each output is made once, whatever it is made together with."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pipeline import embeddings, frozen, runtimes
from pipeline.backbones import freezing
from pipeline.errors import ConfigurationError
from pipeline.images.views import Views, render
from pipeline.params import BackboneParams
from pipeline.store import Store
from tests.extraction_desk import places_in, run
