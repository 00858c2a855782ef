"""Quality while quantizing: a held-out set goes through the BF16 model and through the quantized one.

Both are seen a layer at a time, as the engine sees them: the reference is the layer as it was read, before
any processor; the quantized layer is made of the tensors that are written, in the server's arithmetic.

    heldout.py   the prompts between two layers: all tokens together, attention prompt by prompt
    served.py    a decoder layer in int8, as the server computes it
    watch.py     what a quantized linear makes of its input, compared with the float linear
    figures.py   ratios, similarities, divergences
    meter.py     the order: what the runner calls
    report.py    quality.json, from the figures of all units
"""
