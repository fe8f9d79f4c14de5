"""Exact and near-duplicates, and paragraphs that repeat.

minhash (signatures and bands), clusters (from shared bands to who stays, out of core), near (the door for texts in
memory), paragraphs.
"""
