"""What is measured of a document and kept as a column; thresholds in the recipe decide later.

rules (Gopher, C4, FineWeb, and Chinese counterparts), perplexity (a language model for each language), classifier
(trained: good against bad text, and offensive text), safety (word lists with context, and personal data),
contamination (evaluation items).
"""
