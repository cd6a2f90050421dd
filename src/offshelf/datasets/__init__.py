"""Datasets: labelled images in a folder, a zip, a CSV, a bucket or the store.

A source lists and reads images; `scan` names them by their bytes and so makes the `Dataset`, whose manifest is what
services exchange.
"""

from offshelf.datasets.cards import DatasetCard, read_card, write_card
from offshelf.datasets.classes import check_any, check_classes
from offshelf.datasets.model import (
    MAX_IMAGE_BYTES,
    Dataset,
    Entry,
    ImageSource,
    ImageUnread,
    Item,
    Unread,
    read_dataset,
    write_dataset,
)
from offshelf.datasets.opening import display_name, open_source, source_uri
from offshelf.datasets.scanning import image_reader, scan

__all__ = [
    "MAX_IMAGE_BYTES",
    "Dataset",
    "DatasetCard",
    "Entry",
    "ImageSource",
    "ImageUnread",
    "Item",
    "Unread",
    "check_any",
    "check_classes",
    "display_name",
    "image_reader",
    "open_source",
    "read_card",
    "read_dataset",
    "scan",
    "source_uri",
    "write_card",
    "write_dataset",
]
