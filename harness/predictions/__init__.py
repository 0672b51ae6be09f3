"""Answers that were made elsewhere, read into samples tables: files of many forms."""
