"""Raw text to deduplicated documents in two splits, to token shards, to training samples."""

from megafm.data.config import TrainingData
from megafm.data.document import Document, read_documents
from megafm.data.indexed import IndexedDataset, IndexedDatasetWriter
from megafm.data.loader import check_data, training_samples
from megafm.data.manifest import Manifest
from megafm.data.samples import NO_TARGET, Batch, Samples
from megafm.data.tokenization import check_tokenizer, tokenize
from megafm.data.windows import TokenWindows

__all__ = [
    "NO_TARGET",
    "Batch",
    "Document",
    "IndexedDataset",
    "IndexedDatasetWriter",
    "Manifest",
    "Samples",
    "TokenWindows",
    "TrainingData",
    "check_data",
    "check_tokenizer",
    "read_documents",
    "tokenize",
    "training_samples",
]
