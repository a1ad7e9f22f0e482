"""A packed feed whose blocks bring the name vectors that they need, for those that do not fit on the device."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.data.catalogue import Catalogue
from jaxrec.feeds.base import Shape, ahead
from jaxrec.feeds.packed import PackedBlock, PackedFeed
from jaxrec.sharding import deal


class NamedFeed:
    """Blocks of a packed feed with ``names``, gathered by a thread while the device works on the block before.

    Args:
        feed: the blocks.
        catalogue: the vectors, in host memory or mapped from the disk.
    """

    def __init__(self, feed: PackedFeed, catalogue: Catalogue) -> None:
        self._feed, self._catalogue, self.mesh = feed, catalogue, feed.mesh
        self.shape: Shape = feed.shape

    @property
    def pairs(self) -> int:
        """Targets in an epoch."""
        return self._feed.pairs

    @property
    def grid(self) -> tuple[int, int]:
        return self._feed.grid

    def positions(self, epoch: int = 0) -> np.ndarray:
        """As ``PackedFeed.positions``."""
        return self._feed.positions(epoch)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[PackedBlock]:
        """The blocks of an epoch from block ``start`` on."""
        yield from ahead(self._named(block) for block in self._feed.epoch(epoch, start))

    def like(self) -> PackedBlock:
        """Shapes and dtypes of a block, to compile for."""
        block, dim = self._feed.like(), self._catalogue.dim
        return block._replace(
            names=tuple(
                jax.ShapeDtypeStruct((*leaf.shape, dim), jnp.bfloat16, sharding=leaf.sharding)
                for leaf in (block.input, block.target)
            )
        )

    def _named(self, block: PackedBlock) -> PackedBlock:
        names = tuple(self._gather(ids) for ids in (block.input, block.target))
        return block._replace(names=deal(names, self.mesh, 1))

    def _gather(self, ids: jax.Array) -> np.ndarray:
        """bfloat16[..., dim] from int32[...] items; zeros for -1 and for items without a name."""
        items = np.asarray(ids)
        rows = np.where(items >= 0, self._catalogue.name_of[items], -1)
        vectors = self._catalogue.vectors[rows].astype(jnp.bfloat16)  # as on the device, so that both train alike
        vectors[rows < 0] = 0
        return vectors
