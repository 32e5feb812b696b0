"""Raw text to deduplicated documents in two splits, to token shards, to training samples."""

from megafm.data.document import Document, read_documents
from megafm.data.indexed import IndexedDataset, IndexedDatasetWriter
from megafm.data.manifest import Manifest
from megafm.data.tokenization import check_tokenizer, tokenize
from megafm.data.windows import TokenWindows

__all__ = [
    "Document",
    "IndexedDataset",
    "IndexedDatasetWriter",
    "Manifest",
    "TokenWindows",
    "check_tokenizer",
    "read_documents",
    "tokenize",
]
