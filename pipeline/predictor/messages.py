"""The messages of ONNX that a bundle is made of: by its number, what each field may be."""

from dataclasses import dataclass

from pipeline.predictor.wire import BYTES, FIXED32, FIXED64, VARINT


@dataclass(frozen=True)
class Banned:
    """A field that no bundle has. words: for what it is."""

    words: str


@dataclass(frozen=True)
class Inside:
    """A field that is a message of its own. kind: a key of MESSAGES."""

    kind: str


Field = Inside | Banned | frozenset[int]
"""A plain field is the wire types that it may have: numbers are stored one by one or packed."""

NUMBER, TEXT = frozenset([VARINT]), frozenset([BYTES])
REAL, REALS = frozenset([FIXED32]), frozenset([FIXED32, BYTES])
NUMBERS, DOUBLES = frozenset([VARINT, BYTES]), frozenset([FIXED64, BYTES])
PLAIN_MESSAGE = TEXT
"""A message without tensors, nodes or functions below it: skipped."""

EXTERNAL, SPARSE = Banned("external data"), Banned("sparse tensors")

MESSAGES: dict[str, dict[int, Field]] = {
    "ModelProto": {
        1: NUMBER,  # ir_version
        2: TEXT,  # producer_name
        3: TEXT,  # producer_version
        4: TEXT,  # domain
        5: NUMBER,  # model_version
        6: TEXT,  # doc_string
        7: Inside("GraphProto"),
        8: Inside("OperatorSetIdProto"),
        14: Inside("StringStringEntryProto"),  # metadata_props
        20: Banned("training information"),
        25: Banned("functions of its own"),
        26: Banned("a configuration of devices"),
    },
    "OperatorSetIdProto": {1: TEXT, 2: NUMBER},
    "GraphProto": {
        1: Inside("NodeProto"),
        2: TEXT,  # name
        5: Inside("TensorProto"),
        10: TEXT,  # doc_string
        11: PLAIN_MESSAGE,  # input
        12: PLAIN_MESSAGE,  # output
        13: PLAIN_MESSAGE,  # value_info
        14: PLAIN_MESSAGE,  # quantization_annotation
        15: SPARSE,
        16: PLAIN_MESSAGE,  # metadata_props
    },
    "NodeProto": {
        1: TEXT,  # input
        2: TEXT,  # output
        3: TEXT,  # name
        4: TEXT,  # op_type
        5: Inside("AttributeProto"),
        6: TEXT,  # doc_string
        7: TEXT,  # domain
        8: Banned("functions of its own"),  # overload
        9: PLAIN_MESSAGE,  # metadata_props
        10: Banned("a configuration of devices"),
    },
    "AttributeProto": {
        1: TEXT,  # name
        2: REAL,
        3: NUMBER,
        4: TEXT,
        5: Inside("TensorProto"),
        6: Inside("GraphProto"),
        7: REALS,
        8: NUMBERS,
        9: TEXT,
        10: Inside("TensorProto"),
        11: Inside("GraphProto"),
        13: TEXT,  # doc_string
        14: PLAIN_MESSAGE,  # a type
        15: PLAIN_MESSAGE,
        20: NUMBER,  # type
        21: Banned("functions of its own"),  # ref_attr_name
        22: SPARSE,
        23: SPARSE,
    },
    "TensorProto": {
        1: NUMBERS,  # dims
        2: NUMBER,  # data_type
        3: Banned("a tensor in segments"),
        4: REALS,
        5: NUMBERS,
        6: TEXT,
        7: NUMBERS,
        8: TEXT,  # name
        9: TEXT,  # raw_data
        10: DOUBLES,
        11: NUMBERS,
        12: TEXT,  # doc_string
        13: EXTERNAL,
        14: NUMBER,  # data_location
        16: PLAIN_MESSAGE,  # metadata_props
    },
    "StringStringEntryProto": {1: TEXT, 2: TEXT},
}
"""The fields of each message by their numbers, as onnx.proto has them."""
