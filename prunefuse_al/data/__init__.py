"""Rows in, batches out.

Whatever holds rows (arrays, memory maps, datasets, a store of your own: `Rows`) is read here, batch by batch and in any
order; what cannot be read as it was meant is refused here. Beside that: seeds, files that appear whole, and turns.
"""

from .arrays import as_arrays as as_arrays
from .arrays import as_weights as as_weights
from .arrays import check_weights as check_weights
from .arrays import common_length as common_length
from .arrays import describe_rows as describe_rows
from .arrays import leaves as leaves
from .arrays import map_leaves as map_leaves
from .arrays import nonfinite_rows as nonfinite_rows
from .arrays import refuse_missing as refuse_missing
from .datasets import as_dataset as as_dataset
from .datasets import given_labels as given_labels
from .datasets import has_labels as has_labels
from .datasets import labels_of as labels_of
from .datasets import split_item as split_item
from .datasets import subset as subset
from .datasets import to_dataset as to_dataset
from .files import replacing as replacing
from .files import reserve as reserve
from .files import shortage as shortage
from .files import sync_folder as sync_folder
from .frames import TableRows as TableRows
from .items import Collate as Collate
from .loading import Batch as Batch
from .loading import BatchLoader as BatchLoader
from .loading import batches as batches
from .loading import check_finite as check_finite
from .loading import check_reading as check_reading
from .randomness import fresh_seed as fresh_seed
from .randomness import isolated_rng as isolated_rng
from .shards import TarShards as TarShards
from .showing import bar as bar
from .stores import ArrayDataset as ArrayDataset
from .stores import PairedDataset as PairedDataset
from .stores import Rows as Rows
from .stores import read_items as read_items
from .stores import rooted as rooted
from .stores import split_row as split_row
from .stores import split_rows as split_rows
from .stores import taken as taken
from .turns import alone as alone
