"""Features on their way from the extractor to the trainer: immutable segments, and tables that pick from them.

And in one file, for whoever wants the features alone.
"""

from offshelf.features.erasure import segment_images, segment_without
from offshelf.features.export import EXPORT_VERSION, export_digest, export_features, vector_bytes
from offshelf.features.segments import (
    SEGMENT_VERSION,
    ImageOutcome,
    Segment,
    SegmentRow,
    dimension_of,
    images_in,
    read_segment,
    segment_inputs,
    write_segment,
)
from offshelf.features.tables import Features, FeatureTable, SkippedItem, load_features, read_table, write_table

__all__ = [
    "EXPORT_VERSION",
    "SEGMENT_VERSION",
    "FeatureTable",
    "Features",
    "ImageOutcome",
    "Segment",
    "SegmentRow",
    "SkippedItem",
    "dimension_of",
    "export_digest",
    "export_features",
    "images_in",
    "load_features",
    "read_segment",
    "read_table",
    "segment_images",
    "segment_inputs",
    "segment_without",
    "vector_bytes",
    "write_segment",
    "write_table",
]
