"""Engine `stock`: msmodelslim's own V1 service, as its command line calls it, without its prompts.

The whole BF16 model is loaded into host memory; the layers then visit the device one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from quantpipe.checkpoint.fetched import require_same
from quantpipe.checkpoint.names import SHARD_GLOB
from quantpipe.quantize.worker.protocol import Job, Reporter


def quantize(job: Job, reporter: Reporter) -> None:
    """Run the job's spec and write the checkpoint into the job's output directory.

    Raises:
        Exception: whatever msmodelslim raises; its own errors carry an `action`.
    """
    from msmodelslim.core.const import DeviceType
    from msmodelslim.core.context import ContextFactory
    from msmodelslim.core.quant_service.modelslim_v1.quant_config import ModelslimV1QuantConfig
    from msmodelslim.core.quant_service.modelslim_v1.quant_service import (
        ModelslimV1QuantService,
        ModelslimV1QuantServiceConfig,
    )
    from msmodelslim.infra.file_dataset_loader import FileDatasetLoader
    from msmodelslim.model import PluginModelFactory

    # Its loader reads the files by itself: they are compared with the hashes of the fetch before it does.
    snapshot = Path(job.snapshot)
    require_same(snapshot, sorted(path.name for path in snapshot.glob(SHARD_GLOB)))
    adapter = PluginModelFactory().create(job.adapter, snapshot, job.trust_remote_code)
    _report_loading(adapter, reporter)
    _report_layers(adapter, reporter)
    service = ModelslimV1QuantService(
        ModelslimV1QuantServiceConfig(),
        FileDatasetLoader(snapshot),
        ContextFactory(enable_debug=False),
    )
    service.quantize(
        ModelslimV1QuantConfig(apiversion="modelslim_v1", spec=job.spec),
        adapter,
        Path(job.output),
        DeviceType(job.device),
        job.device_indices,
    )


def _report_loading(adapter: Any, reporter: Reporter) -> None:
    load: Callable[..., Any] = adapter.init_model

    def init_model(*arguments: Any, **options: Any) -> Any:
        reporter.send("phase", name="load")
        model = load(*arguments, **options)
        reporter.send("phase", name="quantize")
        return model

    adapter.init_model = init_model


def _report_layers(adapter: Any, reporter: Reporter) -> None:
    """Report each decoder layer when the first processor reaches it.

    By the adapter's visit, which the runner advances once per processor and layer: the first processor that
    asks for a layer loads it.
    """
    visit: Callable[..., Iterator[Any]] = adapter.generate_model_visit
    total = int(adapter.config.num_hidden_layers)
    begun = 0

    def generate_model_visit(*arguments: Any, **options: Any) -> Iterator[Any]:
        nonlocal begun
        for index, request in enumerate(visit(*arguments, **options), start=1):
            if index > begun:
                begun = index
                reporter.send("layer", index=index, of=total)
            yield request

    adapter.generate_model_visit = generate_model_visit
