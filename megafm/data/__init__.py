"""Raw text to deduplicated documents in two splits, to token shards, to training samples."""

from megafm.data.config import TrainingData
from megafm.data.document import Document, read_documents
from megafm.data.identity import DataIdentity, check_data
from megafm.data.indexed import IndexedDataset, IndexedDatasetWriter
from megafm.data.loader import training_samples
from megafm.data.manifest import Manifest
from megafm.data.samples import NO_TARGET, Batch, Samples
from megafm.data.tokenization import check_tokenizer, tokenize
from megafm.data.windows import TokenWindows

__all__ = [
    "NO_TARGET",
    "Batch",
    "DataIdentity",
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
