"""The compression rate that finds itself: rates are tried, measured, and the best of them published.

A trial is a recipe made from rates (`space`, `recipes`), carried out by the pipeline and measured on this CPU
beside one baseline (`judging`). Cheap trials come first and the best of them are trained in full
(`worker`); Optuna proposes the rates and keeps the book (`book`). `goals` says what is wanted.
"""
