"""Decoded images on disk, written once and mapped into memory after that; or none, by `stream`."""

from distill.data.store.store import Split, Store, is_cut_short, open_store, spread, subset

__all__ = ["Split", "Store", "is_cut_short", "open_store", "spread", "subset"]
