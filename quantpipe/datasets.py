from quantpipe.quantize.datasets import dataset_digest, load_prompts, write_msmodelslim_dataset
