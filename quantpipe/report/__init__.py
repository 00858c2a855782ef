"""Reports: what is known about a published generation, as JSON, a page, text and a model card."""
