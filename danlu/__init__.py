"""Danlu (丹炉): raw web pages in, an aligned bilingual language model out.

The folders, read in this order, are the recipe:
run, corpus, tokenizer, conversations, model, inference, training, evaluation, serving, report.
"""
